#!/bin/sh
# Shell is a language too: arguments, a pipe, and a status.
printf '%s\n' "$@" | sort -r
echo "no such thing" >&2
exit 3
