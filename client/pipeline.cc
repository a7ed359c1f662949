// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/pipeline.h"

#include <algorithm>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/random/random.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "client/clock.h"

namespace lion::client {
namespace {

void StartCall(Client* client, const v1::EmbedRequest* request, v1::EmbedResponse* response, Client::Done done) {
  client->EmbedAsync(request, response, std::move(done));
}
void StartCall(Client* client, const v1::ClassifyRequest* request, v1::ClassifyResponse* response, Client::Done done) {
  client->ClassifyAsync(request, response, std::move(done));
}
void StartCall(Client* client, const v1::TokenizeRequest* request, v1::TokenizeResponse* response, Client::Done done) {
  client->TokenizeAsync(request, response, std::move(done));
}

bool SpeaksOfOneInput(const absl::Status& status) { return absl::StartsWith(status.message(), "inputs["); }

// The position within a batch means nothing to whoever gave the rows.
absl::Status WithoutBatchPosition(const absl::Status& status) {
  if (!SpeaksOfOneInput(status)) return status;
  const size_t end = status.message().find("]: ");
  if (end == absl::string_view::npos) return status;
  return absl::Status(status.code(), status.message().substr(end + 3));
}

// Would every other call meet the same fate?
bool StopsEverything(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kDeadlineExceeded:   // this batch was too much for its time
    case absl::StatusCode::kResourceExhausted:  // these rows could not be taken
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kUnknown:
      return false;
    default:
      return !SpeaksOfOneInput(status);
  }
}

}  // namespace

template <typename Rpc>
struct Pipeline<Rpc>::Impl {
  struct Item {
    Row row;
    v1::Input input;  // moved into the request while a call is out
    typename Rpc::Result result;
  };

  // A batch is the pipeline thread's alone once it is sealed; until then it is guarded by mu.
  struct Batch {
    std::vector<Item> items;
    int64_t bytes = 0;
    bool sealed = false;         // takes no more rows
    absl::Duration first_added;  // by SteadyNow()
    std::vector<int> waiting;    // items that still have no answer and are not out
    std::vector<int> out;        // items of the call that is out
    int attempts = 0;            // calls made for `waiting`
    bool alone = false;          // send one row a call
    absl::Duration not_before;   // by SteadyNow(): the next call waits until then
    typename Rpc::Request request;
    typename Rpc::Response response;
    bool calling = false;   // guarded by mu
    bool answered = false;  // guarded by mu: the call has ended and its answer is not yet read
    absl::Status answer;    // guarded by mu
    bool done() const { return sealed && !calling && waiting.empty(); }
  };

  Client* const client;
  const typename Rpc::Request prototype;
  const PipelineOptions options;
  const Emit emit;
  absl::BitGen random;

  absl::Mutex mu;
  absl::CondVar changed;
  std::deque<std::unique_ptr<Batch>> batches ABSL_GUARDED_BY(mu);
  int64_t num_added ABSL_GUARDED_BY(mu) = 0;
  int num_calling ABSL_GUARDED_BY(mu) = 0;
  bool finishing ABSL_GUARDED_BY(mu) = false;
  bool ending ABSL_GUARDED_BY(mu) = false;   // nothing new starts; what is in flight is waited for and emitted
  bool stopped ABSL_GUARDED_BY(mu) = false;  // what is in flight is cancelled
  absl::Status why ABSL_GUARDED_BY(mu);      // of the first of these
  std::thread thread;

  Impl(Client* c, typename Rpc::Request request, const PipelineOptions& o, Emit e)
      : client(c), prototype(std::move(request)), options(o), emit(std::move(e)) {}

  void End(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    if (!ending) why = std::move(status);
    ending = true;
    changed.SignalAll();
  }
  void Stop(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    End(std::move(status));
    stopped = true;
  }

  bool Append(Item item, int64_t bytes) {
    absl::MutexLock lock(&mu);
    Batch* filling = batches.empty() || batches.back()->sealed ? nullptr : batches.back().get();
    if (filling != nullptr && filling->bytes + bytes > options.max_batch_bytes) {
      filling->sealed = true;
      changed.SignalAll();
      filling = nullptr;
    }
    if (filling == nullptr) {
      while (!ending && batches.size() >= 2 * static_cast<size_t>(options.max_in_flight)) changed.Wait(&mu);
      if (ending) return false;
      filling = batches.emplace_back(std::make_unique<Batch>()).get();
      filling->first_added = SteadyNow();
      changed.SignalAll();
    }
    if (ending) return false;
    item.row.index = num_added++;
    if (item.row.status.ok()) filling->waiting.push_back(static_cast<int>(filling->items.size()));
    filling->items.push_back(std::move(item));
    filling->bytes += bytes;
    if (filling->items.size() >= static_cast<size_t>(options.batch_size)) {
      filling->sealed = true;
      changed.SignalAll();
    }
    return true;
  }

  // Sends the batch's waiting rows (or the first of them).
  void Start(Batch* batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    const auto end = batch->alone ? batch->waiting.begin() + 1 : batch->waiting.end();
    batch->out.assign(batch->waiting.begin(), end);
    batch->waiting.erase(batch->waiting.begin(), end);
    batch->request = prototype;
    batch->response.Clear();
    for (int i : batch->out) batch->request.add_inputs()->Swap(&batch->items[i].input);
    ++batch->attempts;
    batch->calling = true;
    ++num_calling;
    mu.Unlock();  // done may be called before StartCall returns
    StartCall(client, &batch->request, &batch->response, [this, batch](absl::Status status) {
      absl::MutexLock lock(&mu);
      batch->answer = std::move(status);
      batch->answered = true;
      changed.SignalAll();
    });
    mu.Lock();
  }

  // Sorts a call's rows into answered ones and ones to send again.
  void ReadAnswer(Batch* batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    batch->calling = batch->answered = false;
    --num_calling;
    const int num_out = static_cast<int>(batch->out.size());
    for (int i = 0; i < num_out; ++i) batch->items[batch->out[i]].input.Swap(batch->request.mutable_inputs(i));

    absl::Status call = batch->answer;
    if (call.ok() && batch->response.results_size() != num_out) {
      call = absl::InternalError(
          absl::StrCat("the server answered ", batch->response.results_size(), " results to ", num_out, " inputs"));
    }
    const bool last_attempt = !batch->alone && batch->attempts >= options.max_attempts;
    if (!call.ok() && SpeaksOfOneInput(call) && !MayRetry(call) && num_out > 1) {
      batch->alone = true;  // every row is bad, but only the first one's reason was told
      batch->waiting = batch->out;
      return;
    }
    if (!call.ok() && StopsEverything(call) && (!MayRetry(call) || last_attempt)) {
      batch->waiting = batch->out;  // without an answer for ever: this batch and all after it are not emitted
      return End(call);
    }

    std::vector<int> again;
    for (int i = 0; i < num_out; ++i) {
      Item& item = batch->items[batch->out[i]];
      absl::Status status = call;
      if (call.ok()) {
        auto* result = batch->response.mutable_results(i);
        if (result->has_error()) {
          status = absl::Status(static_cast<absl::StatusCode>(result->error().code()), result->error().message());
          if (status.ok()) status = absl::InternalError("the server failed the row with code OK");
        } else {
          item.result.Swap(result);
          item.row.result = &item.result;
          continue;
        }
      }
      if (MayRetry(status) && !last_attempt && !batch->alone) {
        again.push_back(batch->out[i]);
      } else {
        item.row.status = WithoutBatchPosition(status);
      }
    }
    if (again.empty()) return;
    batch->waiting = std::move(again);
    const absl::Duration pause = options.initial_backoff * (1 << std::min(batch->attempts - 1, 20));
    batch->not_before = SteadyNow() + std::min(pause, options.max_backoff) * absl::Uniform(random, 0.8, 1.2);
  }

  void EmitFront() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    Batch* batch = batches.front().get();  // stays where it is: Append looks at the back, which may be this one
    mu.Unlock();
    bool go_on = true;
    for (Item& item : batch->items) {
      if (item.row.input != nullptr) item.row.input = &item.input;
      go_on = emit(item.row);
      if (!go_on) break;
    }
    mu.Lock();
    batches.pop_front();  // only now: the window counts what is being emitted
    if (!go_on) Stop(absl::CancelledError("stopped by its caller"));
    changed.SignalAll();
  }

  // The pipeline's thread.
  void Run() {
    absl::MutexLock lock(&mu);
    while (true) {
      if (stopped) {
        if (num_calling == 0) return;
        mu.Unlock();
        client->CancelAll();
        mu.Lock();
        for (const auto& batch : batches) {
          if (batch->answered) ReadAnswer(batch.get());
        }
        if (num_calling > 0) changed.WaitWithTimeout(&mu, absl::Milliseconds(100));
        continue;
      }
      const absl::Duration now = SteadyNow();
      absl::Duration wake = absl::InfiniteDuration();
      bool moved = false;
      for (size_t i = 0; i < batches.size(); ++i) {
        Batch* batch = batches[i].get();
        if (batch->answered) {
          ReadAnswer(batch);
          moved = true;
        }
        if (batch->calling) continue;
        const bool free = num_calling < options.max_in_flight && !ending;
        if (!batch->sealed && !batch->items.empty() && (free || (finishing && !ending))) {
          const absl::Duration leaves = finishing ? now : batch->first_added + options.max_wait;
          if (leaves <= now)
            batch->sealed = true;
          else
            wake = std::min(wake, leaves);
        }
        if (!batch->sealed || batch->waiting.empty() || !free) continue;
        if (batch->not_before > now) {
          wake = std::min(wake, batch->not_before);
          continue;
        }
        Start(batch);
        moved = true;
      }
      if (!batches.empty() && batches.front()->done()) {
        EmitFront();
        continue;
      }
      if (moved) continue;
      if (ending ? num_calling == 0 : finishing && batches.empty()) return;
      if (wake == absl::InfiniteDuration())
        changed.Wait(&mu);
      else
        changed.WaitWithTimeout(&mu, wake - now);
    }
  }
};

template <typename Rpc>
Pipeline<Rpc>::Pipeline(Client* client, typename Rpc::Request request, const PipelineOptions& options, Emit emit)
    : impl_(std::make_unique<Impl>(client, std::move(request), options, std::move(emit))) {
  impl_->thread = std::thread([impl = impl_.get()] { impl->Run(); });
}

template <typename Rpc>
Pipeline<Rpc>::~Pipeline() {
  Cancel();
  if (impl_->thread.joinable()) impl_->thread.join();
}

template <typename Rpc>
bool Pipeline<Rpc>::Add(v1::Input input, std::string source, int64_t position) {
  typename Impl::Item item;
  const int64_t bytes = static_cast<int64_t>(input.ByteSizeLong());
  item.input.Swap(&input);
  item.row.input = &item.input;
  item.row.source.swap(source);
  item.row.position = position;
  return impl_->Append(std::move(item), bytes);
}

template <typename Rpc>
bool Pipeline<Rpc>::AddFailed(absl::Status status, std::string source, int64_t position) {
  typename Impl::Item item;
  item.row.status = std::move(status);
  item.row.source.swap(source);
  item.row.position = position;
  return impl_->Append(std::move(item), 0);
}

template <typename Rpc>
absl::Status Pipeline<Rpc>::Finish() {
  {
    absl::MutexLock lock(&impl_->mu);
    impl_->finishing = true;
    impl_->changed.SignalAll();
  }
  impl_->thread.join();
  absl::MutexLock lock(&impl_->mu);
  return impl_->why;
}

template <typename Rpc>
void Pipeline<Rpc>::Cancel() {
  absl::MutexLock lock(&impl_->mu);
  impl_->Stop(absl::CancelledError("cancelled"));
}

template class Pipeline<EmbedRpc>;
template class Pipeline<ClassifyRpc>;
template class Pipeline<TokenizeRpc>;

}  // namespace lion::client
