#!/usr/bin/env bash
# Reports the changes since commit $1 that break the wire format of the protos. Needs the
# development requirements. Exit status: 0 no such change, 100 at least one, 2 wrong argument.
set -euo pipefail
cd "$(dirname "$0")/.."
commit=${1:-}
if [ -z "$commit" ]; then
    echo "Name the commit to compare with: make breaking BASE=<commit>." >&2
    exit 2
fi
if ! git rev-parse --quiet --verify "$commit^{commit}" >/dev/null; then
    echo "This repository has no commit $commit." >&2
    exit 2
fi
if ! git cat-file -e "$commit:protos/frontrow" 2>/dev/null; then
    echo "Commit $commit has no protos/frontrow: compare with a commit after the protos moved there." >&2
    exit 2
fi
git archive "$commit" protos/frontrow |
    "${BUF:-.venv/bin/buf}" breaking protos --against '-#format=tar,subdir=protos'
echo "No change since $commit breaks the wire format."
