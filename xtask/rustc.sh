#!/usr/bin/env bash
# cargo's rustc in this tree (see .cargo/config.toml). Before rustc compiles a build script, which is the first thing that is
# linked, this makes sure that C can be compiled. Without it, rustc prints pages that do not name the packages to install.
# `rustc -vV` and other questions are let through: cargo would remember a failure after the packages are installed.
#
# Not sh: dash drops variables with a hyphen in their names, and cargo sets such ones (CARGO_BIN_EXE_netconn-search).
missing=
case " $* " in
*" --crate-name build_script_"*)
    if ! command -v cc >/dev/null; then
        # Those who set another compiler or linker have one of these.
        command -v clang >/dev/null || command -v gcc >/dev/null || missing=yes
    elif [ "$(cc -print-file-name=crt1.o)" = crt1.o ]; then
        # cc repeats a name that it does not find. Only a test shows whether it can do without.
        program=$(mktemp) && echo 'int main(void) { return 0; }' | cc -x c - -o "$program" 2>/dev/null || missing=yes
        rm -f "$program"
    fi
    if [ "$missing" ]; then
        message="To build netconn, install a C compiler and libc's headers: apt install gcc libc6-dev"
        # As rustc reports to cargo with --error-format=json.
        printf '{"$message_type":"diagnostic","message":"%s","code":null,"level":"error","spans":[],"children":[],' "$message" >&2
        printf '"rendered":"error: %s\\n"}\n' "$message" >&2
        exit 1
    fi
    ;;
esac
exec "$@"
