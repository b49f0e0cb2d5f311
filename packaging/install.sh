#!/bin/sh
# Installs netconn from this folder, or removes what it has installed.
#
# Usage: ./install.sh [install | uninstall [--purge]] [--root DIR] [--no-start]
#
#   install          copy the files, make the user `netconn`, start the service (this is the default)
#   uninstall        stop the service and remove the files; configuration that was changed, history and user stay
#   --purge          with uninstall: remove these, too
#   --root DIR       do this below DIR, for images: no user is made, no service started
#   --no-start       do not start the service
set -eu

here=$(cd "$(dirname "$0")" && pwd)
action=install root= start=yes purge=
manifest=usr/lib/netconn/files

die() {
    echo "install.sh: $1" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case "$1" in
    install | uninstall) action=$1 ;;
    --purge) purge=yes ;;
    --no-start) start= ;;
    --root)
        [ $# -gt 1 ] || die "--root needs a folder"
        root=$(cd "$2" && pwd) || die "there is no folder $2"
        shift
        ;;
    -h | --help)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    *) die "unknown argument $1; ./install.sh --help lists all" ;;
    esac
    shift
done
[ "$root" != / ] || root=
[ -n "$root" ] || [ "$(id -u)" = 0 ] || die "it must run as root: sudo ./install.sh"

has_systemd() {
    [ -z "$root" ] && [ -d /run/systemd/system ]
}

install_files() {
    # Files of a package belong to its manager.
    if [ -z "$root" ] && [ -e /usr/bin/netconn ] && [ ! -e "/$manifest" ]; then
        if dpkg -S /usr/bin/netconn >/dev/null 2>&1 || rpm -qf /usr/bin/netconn >/dev/null 2>&1; then
            die "netconn is installed by a package: upgrade or remove that"
        fi
    fi
    mkdir -p "$root/usr/lib/netconn"
    : >"$root/$manifest.new"
    (cd "$here/files" && find . -type f | sed 's,^\./,,' | LC_ALL=C sort) | while read -r file; do
        mkdir -p "$root/$(dirname "$file")"
        case "$file" in
        etc/*)
            # What was changed here stays; the new default stands beside it.
            if [ -e "$root/$file" ] && ! cmp -s "$here/files/$file" "$root/$file"; then
                cp -p "$here/files/$file" "$root/$file.new"
                echo "kept $root/$file; the new default is $file.new" >&2
                continue
            fi
            ;;
        esac
        # Renamed into place: a program that runs cannot be written to.
        cp -p "$here/files/$file" "$root/$file.install"
        mv -f "$root/$file.install" "$root/$file"
        # `cp -p` keeps the owner of the unpacked file when root runs this.
        [ "$(id -u)" != 0 ] || chown 0:0 "$root/$file"
        echo "$file" >>"$root/$manifest.new"
    done
    mkdir -p "$root/etc/netconn/conf.d" "$root/etc/netconn/hunts"
    # Of an earlier version, and not of this one.
    if [ -e "$root/$manifest" ]; then
        while read -r file; do
            grep -qxF "$file" "$root/$manifest.new" || case "$file" in
            etc/*) ;;
            *) rm -f "$root/$file" ;;
            esac
        done <"$root/$manifest"
    fi
    mv -f "$root/$manifest.new" "$root/$manifest"
    # Also those that this script did not write, but has read once.
    (cd "$here/files" && find etc -type f -exec sha256sum {} +) >"$root/usr/lib/netconn/defaults"
}

make_user() {
    if command -v systemd-sysusers >/dev/null; then
        systemd-sysusers netconn.conf
        ! command -v systemd-tmpfiles >/dev/null || systemd-tmpfiles --create netconn.conf || true
    elif ! getent passwd netconn >/dev/null; then
        useradd --system --user-group --home-dir /var/lib/netconn --shell /usr/sbin/nologin netconn ||
            adduser -S -D -H -h /var/lib/netconn -s /sbin/nologin netconn
    fi
}

uninstall_files() {
    [ -e "$root/$manifest" ] || die "there is no $root/$manifest: this script has installed nothing here"
    if has_systemd; then
        systemctl disable --now netconn.service netconn.socket >/dev/null 2>&1 || true
    fi
    if [ -n "$purge" ] && [ -z "$root" ] && [ -x /usr/bin/netconn ]; then
        /usr/bin/netconn forget --yes || true
    fi
    while read -r file; do
        case "$file" in
        etc/*)
            if [ -z "$purge" ] && ! (cd "$root/" && grep -F " $file" usr/lib/netconn/defaults | sha256sum -c --status 2>/dev/null); then
                echo "kept $root/$file, which was changed" >&2
                continue
            fi
            ;;
        esac
        rm -f "$root/$file"
    done <"$root/$manifest"
    rm -f "$root/$manifest" "$root/usr/lib/netconn/defaults"
    [ -z "$purge" ] || rm -rf "$root/etc/netconn" "$root/var/lib/netconn"
    # Those that nobody else uses.
    for folder in usr/lib/netconn etc/netconn/conf.d etc/netconn/hunts etc/netconn \
        usr/share/doc/netconn/hunts usr/share/doc/netconn-search/hunts usr/share/doc/netconn usr/share/doc/netconn-search \
        usr/share/licenses/netconn usr/share/licenses/netconn-search; do
        rmdir "$root/$folder" 2>/dev/null || true
    done
    if [ -n "$purge" ] && [ -z "$root" ]; then
        ! getent passwd netconn >/dev/null || userdel netconn || deluser netconn || true
        ! getent group netconn >/dev/null || groupdel netconn || delgroup netconn || true
    fi
    if has_systemd; then
        systemctl daemon-reload
    fi
}

if [ "$action" = uninstall ]; then
    uninstall_files
    echo "netconn is removed"
    exit 0
fi
install_files
if [ -z "$root" ]; then
    make_user
    if has_systemd; then
        systemctl daemon-reload
        if [ -n "$start" ]; then
            systemctl enable netconn.socket netconn.service
            systemctl restart netconn.socket netconn.service
        fi
        echo "netconn is installed; \`netconn doctor\` checks it"
    else
        echo "netconn is installed; there is no systemd here: \`netconn run\` starts it"
    fi
fi
