#!/usr/bin/env bash
# Generates the stubs and their types beside each .proto. Needs the development requirements.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
PATH="$(dirname "$(command -v "$python")"):$PATH" "$python" -m grpc_tools.protoc -I protos \
    --python_out=protos --grpc_python_out=protos --mypy_out=quiet:protos \
    --mypy_grpc_out=quiet:protos protos/frontrow/*/v1/*.proto
# protoc imports a file by its proto path; in Python the package `protos` stands before that.
sed -i -E 's/^(from|import) frontrow\./\1 protos.frontrow./' protos/frontrow/*/v1/*_pb2*.py*
# A .proto without a service has empty service stubs: not worth a file.
for proto in protos/frontrow/*/v1/*.proto; do
    grep -q '^service ' "$proto" || rm -f "${proto%.proto}_pb2_grpc.py" "${proto%.proto}_pb2_grpc.pyi"
done
