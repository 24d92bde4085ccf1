#!/usr/bin/env bash
# Print the interpreter for the environment: the Lambda runtime's 3.13 first, then any from 3.11 on.
# pyenv's shims answer to names whose version is not switched on, so each candidate has to run.
set -u
works() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
shopt -s nullglob
for candidate in python3.13 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.13*/bin/python3.13 python3.12 python3.11 python3.14 python3; do
  if works "$candidate"; then command -v "$candidate"; exit 0; fi
done
exit 0
