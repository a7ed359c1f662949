// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/commands.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/flags/reflection.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/fake_service.h"
#include "tests/client/temp_file.h"

namespace lion::client {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

struct Outcome {
  int exit_code;
  std::string out;
  std::string err;
};

class CommandsTest : public ::testing::Test {
 protected:
  // Runs lion-client on the fake server, started with the first call.
  Outcome Run(std::vector<std::string> arguments, const std::string& stdin_text = "", bool terminal = false) {
    if (server_ == nullptr) server_ = std::make_unique<FakeServer>(&service_);
    arguments.push_back(absl::StrCat("--target=", server_->target()));
    std::rotate(arguments.begin(), arguments.end() - 1, arguments.end());  // a flag may precede the command
    return RunAnywhere(arguments, stdin_text, terminal);
  }

  static Outcome RunAnywhere(const std::vector<std::string>& arguments, const std::string& stdin_text = "",
                             bool terminal = false) {
    const absl::FlagSaver saver;
    const TempFile in("stdin", stdin_text);
    const TempFile out("stdout");
    const TempFile err("stderr");
    Streams streams;
    streams.in_fd = open(in.path().c_str(), O_RDONLY);
    streams.out = std::fopen(out.path().c_str(), "w");
    streams.err = std::fopen(err.path().c_str(), "w");
    streams.out_is_terminal = terminal;
    streams.err_is_terminal = terminal;
    Outcome outcome;
    outcome.exit_code = RunCommandLine(arguments, streams);
    close(streams.in_fd);
    std::fclose(streams.out);
    std::fclose(streams.err);
    outcome.out = out.Read();
    outcome.err = err.Read();
    return outcome;
  }

  FakeService service_;
  std::unique_ptr<FakeServer> server_;
};

TEST_F(CommandsTest, EmbedsArguments) {
  const Outcome o = Run({"embed", "ab", "cde"});
  EXPECT_EQ(o.exit_code, 0);
  EXPECT_EQ(o.err, "");
  EXPECT_EQ(o.out,
            "{\"index\":0,\"token_count\":2,\"mode\":\"parallel\",\"truncated\":false,\"vector\":[2,97]}\n"
            "{\"index\":1,\"token_count\":3,\"mode\":\"parallel\",\"truncated\":false,\"vector\":[3,99]}\n");
}

TEST_F(CommandsTest, EmbedsForPeopleOnATerminal) {
  const Outcome o = Run({"embed", "ab", "cde", "--similarity"}, "", true);
  EXPECT_EQ(o.exit_code, 0);
  EXPECT_THAT(o.out, HasSubstr("   0  ab\n      2 tokens  parallel  2 dims  norm 97.0206  [+2.0000 +97.0000]\n"));
  EXPECT_THAT(o.out, HasSubstr("Nearest other text, by cosine"));
}

TEST_F(CommandsTest, EmbedsStandardInputInOrderAndManyCalls) {
  std::string text;
  for (int i = 0; i < 300; ++i) absl::StrAppend(&text, std::string(static_cast<size_t>(i % 7), 'x'), "\n");
  const Outcome o = Run({"embed", "--batch_size", "10", "--format=csv"}, text);
  EXPECT_EQ(o.exit_code, 0);
  std::string expected = "index,token_count,mode,truncated,error,v0,v1\n";
  for (int i = 0; i < 300; ++i)
    absl::StrAppend(&expected, i, ",", i % 7, ",parallel,false,,", i % 7, ",", i % 7 > 0 ? 120 : 0, "\n");
  EXPECT_EQ(o.out, expected);
  EXPECT_EQ(service_.num_calls(), 30);
}

TEST_F(CommandsTest, BadLinesAreReportedCountedAndKeptInPlace) {
  const TempFile file("a.jsonl", "{\"text\": \"ab\"}\n{oops\n{\"text\": \"bad one\"}\n{\"text\": \"cde\"}\n");
  const Outcome o = Run({"embed", "--file", file.path()});
  EXPECT_EQ(o.exit_code, 1);
  EXPECT_THAT(o.out, HasSubstr("{\"index\":2,\"source\":"));
  EXPECT_THAT(o.out, HasSubstr("{\"index\":3,\"token_count\":3"));
  EXPECT_THAT(o.err, HasSubstr(absl::StrCat(file.path(), ":2: INVALID_ARGUMENT: is not JSON: parse error")));
  EXPECT_THAT(o.err, HasSubstr(absl::StrCat(file.path(), ":3: INVALID_ARGUMENT: no good: bad one\n")));
  EXPECT_THAT(o.err, HasSubstr("lion-client: 2 of 4 inputs failed\n"));
}

TEST_F(CommandsTest, EmbedsDocumentsWindowByWindow) {
  const TempFile first("first.txt", "abcdefgh"), bad("bad.txt", "bad\none"), last("last.txt", "xy\n");
  const Outcome o =
      Run({"embed", "--document", first.path(), bad.path(), last.path(), "--window", "3", "--format", "csv"});
  EXPECT_EQ(o.exit_code, 1);
  EXPECT_EQ(o.out,
            "index,error,vector,start_token,end_token,start_byte,end_byte,v0,v1\n"
            "0,,0,0,3,0,3,3,0\n"
            "0,,1,3,6,3,6,3,1\n"
            "0,,2,6,8,6,8,3,2\n"
            "1,INVALID_ARGUMENT: input: no good,,,,,,,\n"
            "2,,0,0,3,0,3,3,0\n");
  EXPECT_EQ(o.err, absl::StrCat(bad.path(), ": INVALID_ARGUMENT: input: no good\nlion-client: 1 documents failed\n"));
  const Outcome json = Run({"embed", "--document", "--file", last.path(), "--window=2"});
  EXPECT_EQ(json.exit_code, 0);
  EXPECT_EQ(
      json.out,
      absl::StrCat("{\"index\":0,\"source\":\"", last.path(),
                   "\",\"number\":0,\"tokens\":[0,2],\"bytes\":[0,2],\"vector\":[2,0]}\n{\"index\":0,\"source\":\"",
                   last.path(), "\",\"number\":1,\"tokens\":[2,3],\"bytes\":[2,3],\"vector\":[2,1]}\n"));
  EXPECT_EQ(Run({"embed", "--document", last.path(), "--format=text", "--window=2"}).exit_code, 2);
}

TEST_F(CommandsTest, EmbedsTheWholeDocumentBehindItsWindows) {
  const TempFile text("text.txt", "abcd");
  const Outcome csv = Run({"embed", "--document", text.path(), "--window=3", "--with_document", "--format=csv"});
  EXPECT_EQ(csv.out,
            "index,error,vector,start_token,end_token,start_byte,end_byte,v0,v1\n"
            "0,,0,0,3,0,3,3,0\n0,,1,3,4,3,4,3,1\n0,,,0,4,0,0,-1,1\n");
  const Outcome json =
      Run({"embed", "--document", text.path(), "--window=4", "--with_document", "--boundary=sentence"});
  EXPECT_THAT(json.out, HasSubstr("\",\"whole\":true,\"tokens\":[0,4],\"bytes\":[0,0],\"vector\":[-1,2]}\n"));
  const Outcome wrong = Run({"embed", "text", "--with_document"});
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_THAT(wrong.err, HasSubstr("--with_document goes with --document"));
  EXPECT_EQ(Run({"embed", "--document", text.path(), "--boundary=word"}).exit_code, 2);
}

TEST_F(CommandsTest, MayStopAtTheFirstBadLine) {
  const Outcome o = Run({"embed", "--nokeep_going", "--batch_size=1", "--in_flight=1", "bad", "ab", "cd"});
  EXPECT_EQ(o.exit_code, 1);
  EXPECT_THAT(o.out, Not(HasSubstr("vector")));
  EXPECT_THAT(o.err, HasSubstr("1 of 1 inputs failed; stopped at the first"));
}

TEST_F(CommandsTest, BatchesStayWithinTheServersLimit) {
  service_.max_inputs = 3;
  EXPECT_EQ(Run({"embed", "a", "b", "c", "d"}).exit_code, 0);
  EXPECT_THAT(service_.call_sizes(), ElementsAre(3, 1));
}

TEST_F(CommandsTest, RequestsCarryTheFlags) {
  EXPECT_EQ(Run({"embed", "x", "--model=fake", "--mode", "chunked", "--chunk_tokens=16", "--truncation", "left",
                 "--pooling=cls", "--nonormalize", "--dimensions=2"})
                .exit_code,
            0);
  const v1::EmbedRequest request = service_.last_embed();
  EXPECT_EQ(request.model(), "fake");
  EXPECT_EQ(request.options().mode(), v1::COMPUTE_MODE_CHUNKED);
  EXPECT_EQ(request.options().chunk_tokens(), 16);
  EXPECT_EQ(request.options().truncation(), v1::TRUNCATION_LEFT);
  EXPECT_EQ(request.pooling(), v1::POOLING_CLS);
  EXPECT_TRUE(request.has_normalize());
  EXPECT_FALSE(request.normalize());
  EXPECT_EQ(request.dimensions(), 2);
}

TEST_F(CommandsTest, NormalizeIsUnsetUnlessAskedFor) {
  EXPECT_EQ(Run({"embed", "x"}).exit_code, 0);
  EXPECT_FALSE(service_.last_embed().has_normalize());
  EXPECT_EQ(Run({"embed", "--normalize", "x"}).exit_code, 0);
  EXPECT_TRUE(service_.last_embed().normalize());
}

TEST_F(CommandsTest, IdsAndDashes) {
  EXPECT_THAT(Run({"embed", "--ids", "5,6,7"}).out, HasSubstr("\"vector\":[3,5]"));
  EXPECT_THAT(Run({"embed", "--", "-x-"}).out, HasSubstr("\"vector\":[3,45]"));
}

TEST_F(CommandsTest, WritesNpy) {
  const TempFile out("v.npy");
  const Outcome o = Run({"embed", "ab", "bad", "--output", out.path()});
  EXPECT_EQ(o.exit_code, 1);
  EXPECT_EQ(o.out, "");
  EXPECT_THAT(out.Read(), HasSubstr("'shape': (2, 2)"));
}

TEST_F(CommandsTest, WritesParquetUnderItsNameOnceItIsWhole) {
  const TempFile out("v.parquet", "what was there");
  const std::string partial = out.path() + ".partial";
  const std::vector<std::string> one_by_one = {"embed",
                                               "--nokeep_going",
                                               "--batch_size=1",
                                               "--in_flight=1",
                                               "ab",
                                               "bad",
                                               "cd",
                                               absl::StrCat("--output=", out.path())};
  const Outcome stopped = Run(one_by_one);
  EXPECT_EQ(stopped.exit_code, 1);
  EXPECT_THAT(stopped.err, HasSubstr(absl::StrCat("lion-client: the rows so far are in ", partial, "\n")));
  EXPECT_EQ(out.Read(), "what was there");
  const TempFile bad("bad.txt", "bad\none"), good("good.txt", "abcdefgh");
  const std::vector<std::string> documents = {"embed",      "--document", bad.path(), good.path(),
                                              "--window=3", "--output",   out.path()};
  std::vector<std::string> stops = documents;
  stops.push_back("--nokeep_going");
  EXPECT_THAT(Run(stops).err, HasSubstr("the rows so far are in"));
  EXPECT_EQ(out.Read(), "what was there");
  // A failed input has its row, so the file is whole.
  const Outcome whole = Run(documents);
  EXPECT_EQ(whole.exit_code, 1);
  EXPECT_EQ(whole.out, "");
  EXPECT_EQ(whole.err,
            absl::StrCat(bad.path(), ": INVALID_ARGUMENT: input: no good\nlion-client: 1 documents failed\n"));
  EXPECT_EQ(out.Read().substr(0, 4), "PAR1");
  EXPECT_NE(access(partial.c_str(), F_OK), 0);
  EXPECT_EQ(Run({"embed", "ab", "--output=/dev/full", "--format=parquet"}).err,
            "lion-client: /dev/full: is there and is no file\n");
}

TEST_F(CommandsTest, Classifies) {
  EXPECT_THAT(Run({"classify", "ab"}).out,
              HasSubstr("\"scores\":[{\"label\":\"long, or not\",\"index\":0,\"score\":0.75}"));
  EXPECT_THAT(Run({"classify", "ab"}, "", true).out, HasSubstr("        0.7500  long, or not\n"));
}

TEST_F(CommandsTest, Tokenizes) {
  EXPECT_THAT(Run({"tokenize", "ab"}).out, HasSubstr("\"ids\":[97,98]"));
  EXPECT_THAT(Run({"tokenize", "ab"}, "", true).out, HasSubstr("            97           0-1  a\n"));
}

TEST_F(CommandsTest, ListsModels) {
  EXPECT_THAT(
      Run({"models"}).out,
      AllOf(HasSubstr("fake  (default)"), HasSubstr("lion-s, text, float32 on cpu"),
            HasSubstr("2 labels: long, or not, short"), HasSubstr("parallel up to 256 tokens, then chunked by 64"),
            HasSubstr("up to 131,072 tokens"), HasSubstr("up to 1,024 inputs, 1,048,576 tokens, 67,108,864 bytes")));
  EXPECT_THAT(Run({"models", "--format=jsonl"}).out, HasSubstr("\"max_queue_tokens\":1048576,"));
}

TEST_F(CommandsTest, HealthExitsZeroOnlyOnServing) {
  EXPECT_EQ(Run({"health"}).exit_code, 0);
  EXPECT_EQ(Run({"health", "lion.v1.EncoderService"}).out, "SERVING\n");
  server_->SetReady(false);
  EXPECT_EQ(Run({"health"}).exit_code, 0);
  const Outcome not_ready = Run({"health", "lion.v1.EncoderService"});
  EXPECT_EQ(not_ready.exit_code, 1);
  EXPECT_EQ(not_ready.out, "NOT_SERVING\n");
  const Outcome waited = Run({"health", "lion.v1.EncoderService", "--wait=1ms"});
  EXPECT_EQ(waited.exit_code, 1);
  EXPECT_EQ(waited.out, "NOT_SERVING\n");
  const Outcome unknown = Run({"health", "nobody"});
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_EQ(unknown.out, "SERVICE_UNKNOWN\n");
  const std::string target = server_->target();
  server_.reset();
  const Outcome gone = RunAnywhere({"health", "--target", target});
  EXPECT_EQ(gone.exit_code, 1);
  EXPECT_THAT(gone.err, HasSubstr("UNAVAILABLE"));
}

TEST_F(CommandsTest, Benches) {
  const Outcome o = Run({"bench", "--requests", "20", "--concurrency=2", "--tokens=8", "--duration=60s"});
  EXPECT_EQ(o.exit_code, 0);
  EXPECT_THAT(o.out, HasSubstr("20 ok, 0 failed"));
  EXPECT_THAT(Run({"bench", "--requests=5", "--duration=60s", "--rpc=classify", "--json", "one text", "another"}).out,
              AllOf(HasSubstr("\"rpc\":\"classify\""), HasSubstr("\"ok\":5")));
}

TEST_F(CommandsTest, AModelThatIsNotThereIsSaidOnce) {
  service_.before_call = [](int, const auto&, grpc::ServerContext*) {
    return grpc::Status(grpc::StatusCode::NOT_FOUND, "model: no 'x'; there are fake");
  };
  const Outcome o = Run({"embed", "--model=x", "a", "b", "c"});
  EXPECT_EQ(o.exit_code, 1);
  EXPECT_EQ(o.out, "");
  EXPECT_EQ(o.err, "lion-client: NOT_FOUND: model: no 'x'; there are fake\n");
}

TEST_F(CommandsTest, TheKeyMayComeFromTheEnvironment) {
  std::string seen;
  service_.before_call = [&](int, const auto&, grpc::ServerContext* context) {
    const auto at = context->client_metadata().find("authorization");
    if (at != context->client_metadata().end()) seen.assign(at->second.data(), at->second.size());
    return grpc::Status::OK;
  };
  server_ = std::make_unique<FakeServer>(&service_);
  // The program itself does not carry what tells ThreadSanitizer of abseil's locks (tests/tsan_abseil.cc).
  const std::string command = absl::StrCat("TSAN_OPTIONS=report_bugs=0 LION_API_KEY=k1 ", LION_CLIENT_BINARY,
                                           " embed x --target=", server_->target(), " > /dev/null");
  EXPECT_EQ(std::system(command.c_str()), 0);
  EXPECT_EQ(seen, "Bearer k1");
  EXPECT_EQ(std::system(absl::StrCat(command, " --api_key=k2").c_str()), 0);
  EXPECT_EQ(seen, "Bearer k2");
}

TEST_F(CommandsTest, HelpExplains) {
  const Outcome overview = RunAnywhere({});
  EXPECT_EQ(overview.exit_code, 0);
  EXPECT_THAT(overview.out, AllOf(HasSubstr("lion-client tokenize"), HasSubstr("--target")));
  for (const char* command : {"embed", "classify", "tokenize", "models", "health", "bench"}) {
    const Outcome o = RunAnywhere({"help", command});
    EXPECT_EQ(o.exit_code, 0);
    EXPECT_THAT(o.out, HasSubstr(absl::StrCat("\n  lion-client ", command))) << "an example";
    EXPECT_EQ(RunAnywhere({command, "--help"}).out, o.out);
  }
}

struct Wrong {
  std::vector<std::string> arguments;
  std::string says;
};

TEST_F(CommandsTest, WrongCommandLinesAreOneClearLineAndExitTwo) {
  const std::vector<Wrong> wrongs = {
      {{"embde", "x"}, "no command 'embde'; there are embed, classify"},
      {{"help", "me"}, "no command 'me'"},
      {{"--model=x"}, "no command given"},
      {{"embed", "--nope"}, "no flag --nope"},
      {{"embed", "-5 degrees"}, "after a --"},
      {{"embed", "--notarget", "x"}, "no flag --notarget"},
      {{"embed", "--flagfile=x"}, "no flag --flagfile"},
      {{"embed", "--rate=5", "x"}, "embed does not take --rate"},
      {{"models", "--batch_size=5"}, "models does not take --batch_size"},
      {{"models", "x"}, "what is 'x'?"},
      {{"health", "a", "b"}, "what is 'b'?"},
      {{"embed", "--batch_size=many"}, "--batch_size: 'many'"},
      {{"embed", "--batch_size=0", "x"}, "--batch_size: 0 is below 1"},
      {{"embed", "--in_flight=0", "x"}, "--in_flight: 0 is below 1"},
      {{"embed", "--mode=fast", "x"}, "--mode: 'fast' is none of auto, parallel, chunked, recurrent"},
      {{"embed", "--normalize=maybe", "x"}, "want true, false or auto"},
      {{"embed", "--vector_type=float8", "x"}, "--vector_type: 'float8' is none of"},
      {{"embed", "--format=xml", "x"}, "--format: 'xml' is none of"},
      {{"embed", "--deadline"}, "--deadline needs a value"},
      {{"embed", "--deadline=-1s", "x"}, "--deadline: is below 0"},
      {{"embed", "--api_key=a b", "x"}, "--api_key"},
      {{"embed", "--tls_cert=x.pem", "x"}, "tls_cert and tls_key"},
      {{"embed", "--output=x.xls", "x"}, "--output=x.xls: the suffix is none of"},
      {{"classify", "--format=npy", "x"}, "npy holds vectors only"},
      {{"classify", "--output=x.parquet", "x"}, "parquet holds vectors only"},
      {{"embed", "--format=parquet", "x"}, "parquet needs a file: say --output=FILE.parquet"},
      {{"bench", "--tokens=0"}, "--tokens: '0'"},
  };
  for (const Wrong& wrong : wrongs) {
    const Outcome o = RunAnywhere(wrong.arguments);
    EXPECT_EQ(o.exit_code, 2) << wrong.says;
    EXPECT_EQ(o.out, "");
    EXPECT_THAT(o.err, HasSubstr(wrong.says));
    EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o.err;
  }
}

TEST_F(CommandsTest, WrongInputsExitTwo) {
  const Outcome missing = Run({"embed", "--file=/nowhere.txt"});
  EXPECT_EQ(missing.exit_code, 2);
  EXPECT_THAT(missing.err, HasSubstr("/nowhere.txt"));
  const TempFile csv("a.csv", "id,title\n1,x\n");
  const Outcome column = Run({"embed", "--file", csv.path(), "--column=body"});
  EXPECT_EQ(column.exit_code, 2);
  EXPECT_THAT(column.err, HasSubstr("has no column 'body'; it has id, title"));
}

}  // namespace
}  // namespace lion::client
