#!/usr/bin/env bash
# Wraps cargo's rustc in this tree (see .cargo/config.toml). Before rustc compiles a build script, the first program to be
# linked, this checks that C can be compiled. Otherwise rustc would print pages that do not name the packages to install.
# Other calls, such as `rustc -vV`, are not checked: cargo caches their failures even after the packages are installed.
#
# Not sh: dash drops variables with a hyphen in their names, and cargo sets such ones (CARGO_BIN_EXE_netconn-search).
missing=
case " $* " in
*" --crate-name build_script_"*)
    if ! command -v cc >/dev/null; then
        # A user who has configured another compiler or linker has one of these.
        command -v clang >/dev/null || command -v gcc >/dev/null || missing=yes
    elif [ "$(cc -print-file-name=crt1.o)" = crt1.o ]; then
        # cc prints the bare name if it does not find the file. Only linking a program shows whether it needs the file.
        program=$(mktemp) && echo 'int main(void) { return 0; }' | cc -x c - -o "$program" 2>/dev/null || missing=yes
        rm -f "$program"
    fi
    if [ "$missing" ]; then
        message="To build netconn, install a C compiler and libc's headers: apt install gcc libc6-dev"
        # Print the error as rustc does with --error-format=json, which cargo reads.
        printf '{"$message_type":"diagnostic","message":"%s","code":null,"level":"error","spans":[],"children":[],' "$message" >&2
        printf '"rendered":"error: %s\\n"}\n' "$message" >&2
        exit 1
    fi
    ;;
esac
exec "$@"
