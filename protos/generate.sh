#!/usr/bin/env bash
# Generates the stubs and their types beside each .proto. Needs the development requirements.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
PATH="$(dirname "$(command -v "$python")"):$PATH" "$python" -m grpc_tools.protoc -I protos \
    --python_out=protos --grpc_python_out=protos --mypy_out=quiet:protos \
    --mypy_grpc_out=quiet:protos protos/frontrow/*/v1/*.proto
# The stubs import each other by proto path; in Python that path is inside the package `protos`.
sed -i -E 's/^(from|import) frontrow\./\1 protos.frontrow./' protos/frontrow/*/v1/*_pb2*.py*
# Deletes the empty service stubs of a .proto without a service.
for proto in protos/frontrow/*/v1/*.proto; do
    grep -q '^service ' "$proto" || rm -f "${proto%.proto}_pb2_grpc.py" "${proto%.proto}_pb2_grpc.pyi"
done
