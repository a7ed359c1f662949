# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""docs/api_reference.md, made of the comments in proto/lion/v1/encoder.proto.

    build/venv/bin/python tools/api_reference.py            writes it
    build/venv/bin/python tools/api_reference.py --check    says whether it is as it would be written; exit 1 if not

Needs grpcio-tools (tests/requirements.txt).
"""

import argparse
import pathlib
import sys
import tempfile

import grpc_tools
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[1]
WIRE = "lion/v1/encoder.proto"
PAGE = ROOT / "docs/api_reference.md"

FIELD = descriptor_pb2.FieldDescriptorProto
# Field numbers of FileDescriptorProto, DescriptorProto, EnumDescriptorProto and ServiceDescriptorProto, of which the paths to comments are made.
MESSAGES, ENUMS, SERVICES, FIELDS, VALUES, METHODS = 4, 5, 6, 2, 2, 2


def parse():
    """The wire's FileDescriptorProto, comments included."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "descriptors"
        google = pathlib.Path(grpc_tools.__file__).parent / "_proto"
        if protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"-I{google}", f"--descriptor_set_out={out}", "--include_source_info", WIRE]):
            sys.exit(f"protoc refused proto/{WIRE}")
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]


class Page:
    """Lines of Markdown about one file."""

    def __init__(self, file):
        self._file = file
        self._comments = {tuple(where.path): where for where in file.source_code_info.location}
        self._own = {f".{file.package}.{kind.name}" for kind in [*file.message_type, *file.enum_type]}

    def _comment(self, *path):
        """What stands above and behind a thing, as one line."""
        where = self._comments.get(path)
        text = f"{where.leading_comments} {where.trailing_comments}" if where else ""
        return " ".join(text.split()).replace("|", "\\|")

    def _name(self, full):
        """A message's or an enum's name, as a link if it is on this page."""
        short = full.removeprefix(f".{self._file.package}.").removeprefix(".")
        return f"[{short}](#{short.lower()})" if full in self._own else f"`{short}`"

    def _type(self, field):
        name = self._name(field.type_name) if field.type_name else FIELD.Type.Name(field.type).removeprefix("TYPE_").lower()
        if field.label == FIELD.LABEL_REPEATED:
            return f"repeated {name}"
        return f"optional {name}" if field.proto3_optional else name

    def services(self):
        for i, service in enumerate(self._file.service):
            yield from (f"## {service.name}", "", *self._paragraph(SERVICES, i), "| RPC | takes | answers | |", "|---|---|---|---|")
            for j, method in enumerate(service.method):
                takes, answers = (f"{'stream ' if streams else ''}{self._name(kind)}" for kind, streams in
                                  ((method.input_type, method.client_streaming), (method.output_type, method.server_streaming)))
                yield f"| `{method.name}` | {takes} | {answers} | {self._comment(SERVICES, i, METHODS, j)} |"
            yield ""

    def messages(self):
        yield from ("## Messages", "")
        for i, message in enumerate(self._file.message_type):
            yield from (f"### {message.name}", "", *self._paragraph(MESSAGES, i))
            if not message.field:
                yield from ("No fields.", "")
                continue
            yield from ("| field | type | number | |", "|---|---|---|---|")
            for j, field in enumerate(message.field):
                comment = self._comment(MESSAGES, i, FIELDS, j)
                if field.HasField("oneof_index") and not field.proto3_optional:
                    comment = f"one of `{message.oneof_decl[field.oneof_index].name}`" + (f"; {comment}" if comment else "")
                yield f"| `{field.name}` | {self._type(field)} | {field.number} | {comment} |"
            yield ""

    def enums(self):
        yield from ("## Enums", "")
        for i, enum in enumerate(self._file.enum_type):
            yield from (f"### {enum.name}", "", *self._paragraph(ENUMS, i), "| value | number | |", "|---|---|---|")
            for j, value in enumerate(enum.value):
                yield f"| `{value.name}` | {value.number} | {self._comment(ENUMS, i, VALUES, j)} |"
            yield ""

    def _paragraph(self, *path):
        text = self._comment(*path)
        return (text, "") if text else ()


def page():
    described = Page(parse())
    lines = [
        "# API reference",
        "",
        f"Every RPC, message, field and enum of `lion.v1`, from the comments in [`proto/{WIRE}`](../proto/{WIRE}). Made by `tools/api_reference.py`: edit there, then run it.",
        "What goes beyond one field (errors, defaults that depend on the model, streams, retries) is in [api.md](api.md).",
        "",
        *described.services(),
        *described.messages(),
        *described.enums(),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if docs/api_reference.md is stale")
    text = page()
    if not parser.parse_args().check:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        sys.exit("docs/api_reference.md is not what proto/lion/v1/encoder.proto says: build/venv/bin/python tools/api_reference.py writes it anew")


if __name__ == "__main__":
    main()
