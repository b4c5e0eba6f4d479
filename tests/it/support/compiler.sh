#!/bin/sh
# Stands in for rustc where the wrapper of .cargo is tested: says its version, or else what it was called with, and what
# it was told of programs.
if [ "$1" = -vV ]; then
    printf 'rustc 1.95.0\nbinary: rustc\ncommit-hash: c0ffee\nhost: here\nrelease: 1.95.0\nLLVM version: 22.1.2\n'
else
    printf '%s\n' "$@"
    tr '\0' '\n' </proc/$$/environ | grep '^CARGO_BIN_EXE_'
    true
fi
