# Sourced by tools that use a package of Debian trixie, whatever this machine runs. A private apt: the machine's own lists
# and upgrades are not affected.

# trixie_apt FOLDER deb|deb-src apt-get's arguments...: apt-get with only that source, run in FOLDER, which it fills.
trixie_apt() {
    local private=$1 kind=$2
    shift 2
    local settings=(-o "Dir::Etc::sourcelist=$private/sources.list" -o "Dir::Etc::sourceparts=/dev/null"
        -o "Dir::State::lists=$private/lists" -o "Dir::Cache=$private/cache" -o "APT::Sandbox::User=")
    mkdir -p "$private/lists/partial" "$private/cache/archives/partial"
    _trixie_source "$kind" > "$private/sources.list"
    (cd "$private" && apt-get "${settings[@]}" -qq update && apt-get "${settings[@]}" -qq "$@")
}

# Debian's address and key from this machine's apt, in either of its two formats.
_trixie_source() {
    local uri
    # Only some of these files exist.
    uri=$( (cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null ||
        true) | grep -v '^[[:space:]]*#' | grep -oE '[a-z]+(\+[a-z]+)?:[^ ]*/debian/?( |$)' | sed -n '1s/ *$//p' || true)
    [ -n "$uri" ] || { echo "apt has no source of Debian packages; add one to /etc/apt/sources.list.d" >&2; return 4; }
    echo "$1 [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri trixie main"
}
