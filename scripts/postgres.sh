#!/usr/bin/env bash
# A PostgreSQL with pgvector for tests and development, never a system service.
#
#   postgres.sh install     finds or makes one; prints its bin folder, or "docker"
#   postgres.sh start DIR   a private cluster under DIR, on loopback; prints its URL
#   postgres.sh url DIR     the URL of a cluster that runs
#   postgres.sh stop DIR
#
# In this order: a PostgreSQL of this machine that has a sound pgvector; on Debian
# the packaged pgvector, else a private copy of Debian's PostgreSQL with pgvector
# built from Debian's source (docs/adr/0009 says why); Docker. What is made lies
# in likeness-pg-UID under LIKENESS_PG_DIR (/var/tmp): as root the server runs as
# another user, which must be able to walk there.
set -euo pipefail

least_pg=15      # CREATE DATABASE ... STRATEGY, MERGE
# Older ones write past their memory as a graph is built (CVE-2026-3172) or leave
# graphs broken after a vacuum: pkg/store/postgres warns of them, too.
least_vector=0.8.4
# Debian's sources, newest first, with their SHA-256. A mirror keeps the newest
# and, for a while, some older ones; what comes next is taken by apt's signatures.
sources='0.8.7 b028949dce65a39818cf2bccd64c0a2abc68262a2079f598b161de9c82c9510e
0.8.6 25c9b78cfdaa43c66788d7490246ac24e4fe1c86f19c4b60c089b723f84a4a0d'
next_suite=sid
image=pgvector/pgvector:0.8.7-pg17-bookworm
# In a folder of its own, whatever it is told: what is in it is thrown away.
base=${LIKENESS_PG_DIR:-/var/tmp}/likeness-pg-$(id -u)

say() { echo "postgres.sh: $*" >&2; }
die() { say "$@"; exit 1; }

# The folder is under a name that anybody could have taken first.
own_base() {
  mkdir -m 755 "$base" 2>/dev/null || true
  if [ ! -d "$base" ] || [ -L "$base" ] || [ ! -O "$base" ]; then
    die "$base cannot be made or is not yours: remove it, or set LIKENESS_PG_DIR to a folder of your own"
  fi
  [ "$(stat -c %a "$base")" = 755 ] || chmod 755 "$base"
}

# lock FILE holds the lock until this script ends. Children are given 9>&-
# where they outlive it.
lock() {
  exec 9>"$1"
  if command -v flock >/dev/null; then flock 9; fi
}

# as_root COMMAND... with sudo where that asks nothing.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}
may_root() { [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }; }

# The server refuses to run as root.
server_user() {
  if [ "$(id -u)" -ne 0 ]; then id -un; elif id postgres >/dev/null 2>&1; then echo postgres; else echo nobody; fi
}
as_server() {
  if [ "$(id -u)" -ne 0 ]; then "$@"; else runuser -u "$(server_user)" -- "$@"; fi
}

# --- install -----------------------------------------------------------------

# usable BIN: everything that the tests start is there, and pgvector is new enough.
usable() {
  local bin=$1 major vector
  [ -x "$bin/initdb" ] && [ -x "$bin/pg_ctl" ] && [ -x "$bin/pg_basebackup" ] && [ -x "$bin/pg_config" ] || return 1
  major=$(server_major "$bin") && [ "$major" -ge "$least_pg" ] || return 1
  vector=$(vector_of "$bin")
  [ -n "$vector" ] && [ "$(printf '%s\n' "$least_vector" "$vector" | sort -V | head -n 1)" = "$least_vector" ]
}
server_major() { "$1/postgres" --version 2>/dev/null | sed -E 's/^[^0-9]*([0-9]+).*/\1/'; }
share_of() { "$1/pg_config" --sharedir 2>/dev/null; }
vector_of() { sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" "$(share_of "$1")/extension/vector.control" 2>/dev/null || true; }

# The bin folders of this machine, newest first.
system_bins() {
  {
    ls -d /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/pgsql/bin \
      /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin 2>/dev/null || true
    if command -v pg_config >/dev/null; then pg_config --bindir; fi
  } | sort -rVu
}

find_system() {
  local bin
  while read -r bin; do
    if usable "$bin"; then echo "$bin"; return 0; fi
  done < <(system_bins)
  return 1
}

# The newest PostgreSQL of this machine, with pgvector or without.
find_server() {
  local bin major
  while read -r bin; do
    major=$(server_major "$bin") || continue
    if [ "${major:-0}" -ge "$least_pg" ] && [ -x "$bin/initdb" ]; then echo "$bin"; return 0; fi
  done < <(system_bins)
  return 1
}

apt_install() {
  say "installing: $*"
  local said
  said=$(as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" 2>&1 </dev/null) ||
    { printf '%s\n' "$said" | tail -n 20 >&2; return 1; }
}

# Debian's packages make a cluster and start it as they are installed: not
# here, nobody asked for a database on port 5432.
no_main_cluster() {
  local conf=/etc/postgresql-common/createcluster.d/likeness.conf
  as_root mkdir -p "${conf%/*}"
  echo 'create_main_cluster = false' | as_root tee "$conf" >/dev/null
}
main_cluster_again() { as_root rm -f /etc/postgresql-common/createcluster.d/likeness.conf; }

# The packaged pgvector: for the server that is there, else the newest.
packaged() {
  local server=$1 want
  if [ -n "$server" ]; then want="postgresql-$(server_major "$server")-pgvector"; else want='postgresql-[0-9]+-pgvector'; fi
  apt-cache search --names-only "^$want\$" | cut -d' ' -f1 | sort -rV | head -n 1
}

# version_ok PACKAGE: Debian 13 packages 0.8.0, and Ubuntu older ones.
version_ok() {
  local v
  v=$(apt-cache policy "$1" | sed -n 's/^ *Candidate: *//p')
  [ "$(printf '%s\n' "$least_vector" "$v" | sort -V | head -n 1)" = "$least_vector" ]
}

install_debian() {
  local server missing=() package
  server=$(find_server || true)
  if may_root; then
    as_root apt-get -qq update >/dev/null || say "apt-get update failed; going on with the lists that are there"
    package=$(packaged "$server")
    if [ -n "$package" ] && version_ok "$package"; then
      no_main_cluster
      apt_install "$package" || { main_cluster_again; return 1; }
      main_cluster_again
      find_system && return 0
    fi
  fi
  # shellcheck source=/dev/null
  [ "$(. /etc/os-release && echo "${ID:-}")" = debian ] || return 1
  if [ -z "$server" ]; then
    missing+=("$(apt-cache search --names-only '^postgresql-[0-9]+$' | cut -d' ' -f1 | sort -rV | head -n 1)")
  fi
  command -v gcc >/dev/null || missing+=(gcc)
  [ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
  command -v make >/dev/null || missing+=(make)
  if [ ${#missing[@]} -gt 0 ]; then
    if ! may_root; then
      say "these are missing, and only root can install them: apt-get install ${missing[*]}"
      return 1
    fi
    no_main_cluster
    apt_install "${missing[@]}" || { main_cluster_again; return 1; }
    main_cluster_again
    server=$(find_server) || return 1
  fi
  build "$server"
}

# The Debian mirror that this machine uses, from either kind of apt sources.
mirror() {
  {
    awk '/^URIs:/ {print $2}' /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/*.sources
    sed -nE 's/^deb +(\[[^]]*\] +)?([^ ]+).*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/*.list
  } 2>/dev/null | awk '/debian/ && !/security/ && !n++'
}

# build BIN copies the PostgreSQL at BIN to $base/root and builds Debian's
# pgvector into the copy. PostgreSQL finds its files relative to its own
# binary, so that the copy is an installation of its own and /usr stays as it
# was. Of the server's -dev package only the headers are missing.
build() {
  local bin=$1 major codename uri work
  major=$(server_major "$bin")
  # shellcheck source=/dev/null
  codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
  uri=$(mirror)
  [ -n "$uri" ] || { say "no Debian mirror in /etc/apt: add one, or install pgvector by hand"; return 1; }
  rm -rf "$base"/build.*
  work=$(mktemp -d "$base/build.XXXXXX")
  say "building pgvector for PostgreSQL $major in $base"
  if ! build_in "$work" "$bin" "$major" "$uri" "$codename" >"$work/log" 2>&1 9>&-; then
    tail -n 20 "$work/log" >&2
    rm -rf "$work"
    return 1
  fi
  cd "$base" # build_in went into what is removed now
  rm -rf root.old
  [ ! -d root ] || mv root root.old
  mv "$work/root" root
  rm -rf "$work" root.old
  bin=$base/root/usr/lib/postgresql/$major/bin
  usable "$bin" || { say "pgvector $(vector_of "$bin") was built, and $least_vector or newer is needed"; return 1; }
  say "built pgvector $(vector_of "$bin")"
  echo "$bin"
}

# build_in is one chain, for a shell function called by `if` does not end at its first failure.
build_in() {
  local work=$1 bin=$2 major=$3 uri=$4 codename=$5 keys=/usr/share/keyrings/debian-archive-keyring.gpg
  mkdir -p "$work"/apt/lists/partial "$work"/apt/cache/archives/partial "$work"/pgvector \
    "$work"/root/usr/lib/postgresql "$work"/root/usr/share/postgresql &&
    printf 'deb [signed-by=%s] %s %s main\n' "$keys" "$uri" "$codename" >"$work/apt/sources" &&
    # As root apt would fetch as a user of its own, who may not write here.
    printf '%s "%s";\n' Dir::Etc::sourcelist "$work/apt/sources" Dir::Etc::sourceparts /dev/null \
      Dir::State::lists "$work/apt/lists" Dir::Cache "$work/apt/cache" APT::Sandbox::User root >"$work/apt/conf" &&
    cd "$work" &&
    apt-get -c "$work/apt/conf" -qq update &&
    apt-get -c "$work/apt/conf" -qq download "postgresql-server-dev-$major" &&
    { pinned "$uri" || next "$work" "$uri" "$keys"; } &&
    tar -C pgvector --strip-components=1 -xf pgvector_*.orig.tar.gz &&
    dpkg -x "postgresql-server-dev-$major"_*.deb dev &&
    make -s -j2 -C pgvector OPTFLAGS= with_llvm=no PG_CONFIG="$bin/pg_config" \
      PG_CPPFLAGS="-I$work/dev/usr/include/postgresql/$major/server -I$work/dev/usr/include/postgresql" &&
    cp -a "/usr/lib/postgresql/$major" root/usr/lib/postgresql/ &&
    cp -a "/usr/share/postgresql/$major" root/usr/share/postgresql/ &&
    make -s -C pgvector with_llvm=no PG_CONFIG="$bin/pg_config" DESTDIR="$work/root" install
}

# pinned fetches the first of $sources that the mirror has.
pinned() { # mirror
  local version sum
  while read -r version sum; do
    /usr/lib/apt/apt-helper -c "$PWD/apt/conf" download-file \
      "$1/pool/main/p/pgvector/pgvector_$version.orig.tar.gz" "pgvector_$version.orig.tar.gz" "SHA256:$sum" && return
  done <<<"$sources"
  return 1
}

# next fetches the source that is in Debian now.
next() { # work mirror keys
  printf 'deb-src [signed-by=%s] %s %s main\n' "$3" "$2" "$next_suite" >>"$1/apt/sources" &&
    apt-get -c "$1/apt/conf" -qq update &&
    apt-get -c "$1/apt/conf" -qq source --download-only pgvector
}

# made prints what an earlier call left.
made() {
  local bin
  [ -O "$base" ] && [ ! -L "$base" ] && bin=$(cat "$base/bin" 2>/dev/null) && usable "$bin" && echo "$bin"
}

install() {
  local bin
  made && return
  if bin=$(find_system); then echo "$bin"; return; fi
  own_base
  lock "$base/lock"
  made && return # by whoever held the lock
  if command -v apt-get >/dev/null && bin=$(install_debian) && usable "$bin"; then
    echo "$bin" >"$base/bin.new"
    mv "$base/bin.new" "$base/bin"
    echo "$bin"
    return
  fi
  if command -v docker >/dev/null && docker info >/dev/null 2>&1; then echo docker; return; fi
  die "no PostgreSQL >= $least_pg with pgvector >= $least_vector: install both (macOS: brew install pgvector postgresql@18;" \
    "Linux: the packages of the PostgreSQL project), or Docker"
}

# --- start, stop, url --------------------------------------------------------

# place DIR prints where the cluster of DIR lies: in DIR itself, unless the
# server's user cannot walk there (a checkout under /root).
place() {
  local dir=$1 home
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd -P)
  if [ -L "$dir/cluster" ]; then readlink "$dir/cluster"; return; fi
  home=$dir/cluster
  if [ ! -d "$home" ] && ! as_server test -x "$dir"; then
    own_base
    home=$base/cluster.$(printf %s "$dir" | cksum | cut -d' ' -f1)
    ln -s "$home" "$dir/cluster"
  fi
  echo "$home"
}

random_password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Below the ports that systems hand out by themselves.
free_port() {
  local port
  while port=$((10000 + RANDOM % 20000)); do
    taken "$port" || { echo "$port"; return; }
  done
}

print_url() { # home port
  echo "postgres://postgres:$(cat "$1/password")@127.0.0.1:$2/likeness?sslmode=disable"
}

running() { [ -f "$2/data/postmaster.pid" ] && as_server "$1/pg_ctl" -D "$2/data" status >/dev/null 2>&1; }

container_of() { echo "likeness-pg-$(printf %s "$1" | cksum | cut -d' ' -f1)"; }

url() {
  local home bin port
  home=$(place "$1")
  bin=$(install)
  cd /
  if [ "$bin" = docker ]; then
    port=$(docker port "$(container_of "$home")" 5432/tcp 2>/dev/null | head -n 1) || die "the cluster of $1 is not running: postgres.sh start $1"
    print_url "$home" "${port##*:}"
    return
  fi
  running "$bin" "$home" || die "the cluster of $1 is not running: postgres.sh start $1"
  print_url "$home" "$(sed -n 4p "$home/data/postmaster.pid")"
}

# create BIN HOME makes the cluster. HOME stays the caller's and only its data
# folder is the server's, so that root never writes where another user could
# plant a link. The password goes from file to file: no command line shows it.
create() {
  local bin=$1 home=$2 user word
  user=$(server_user)
  rm -rf "$home/data.new"
  mkdir -m 700 "$home/data.new"
  (umask 077 && random_password >"$home/password")
  word=$(mktemp "$home/word.XXXXXX")
  cat "$home/password" >"$word"
  chown "$user" "$home/data.new" "$word"
  {
    as_server "$bin/initdb" -D "$home/data.new" -U postgres --auth=scram-sha-256 --pwfile="$word" --locale=C --encoding=UTF8 &&
      printf '%s\n' "listen_addresses = '127.0.0.1'" "unix_socket_directories = ''" |
      as_server tee -a "$home/data.new/postgresql.conf" &&
      echo 'CREATE DATABASE likeness' | as_server "$bin/postgres" --single -D "$home/data.new" postgres
  } >"$home/create.log" 2>&1 9>&- || { rm -f "$word"; tail -n 20 "$home/create.log" >&2; die "no cluster could be made in $home"; }
  rm -f "$word"
  mv "$home/data.new" "$home/data"
}

start() {
  local home bin port
  home=$(place "$1")
  bin=$(install)
  mkdir -p "$home"
  chmod 755 "$home"
  lock "$home/lock"
  cd / # a folder that the server's user can walk
  if [ "$bin" = docker ]; then
    start_docker "$home"
    return
  fi
  [ -d "$home/data" ] || create "$bin" "$home"
  if running "$bin" "$home"; then
    print_url "$home" "$(sed -n 4p "$home/data/postmaster.pid")"
    return
  fi
  # The port of last time, so that a URL lives through a restart.
  port=$(cat "$home/port" 2>/dev/null || true)
  for _ in 1 2 3 4 5; do
    if [ -z "$port" ] || taken "$port"; then port=$(free_port); fi
    if as_server "$bin/pg_ctl" -D "$home/data" -l "$home/data/server.log" -w -o "-p $port" start >/dev/null 2>&1 </dev/null 9>&-; then
      echo "$port" >"$home/port"
      print_url "$home" "$port"
      return
    fi
    port= # somebody was quicker
  done
  tail -n 20 "$home/data/server.log" >&2
  die "the cluster in $home does not start"
}

start_docker() { # home
  local name
  name=$(container_of "$1")
  [ -f "$1/password" ] || (umask 077 && random_password >"$1/password")
  if [ -z "$(docker ps -q --filter "name=^$name\$")" ]; then
    docker rm -f "$name" >/dev/null 2>&1 || true
    docker run -d --name "$name" -p 127.0.0.1::5432 -v "$name:/var/lib/postgresql/data" \
      -v "$1/password:/run/password:ro" -e POSTGRES_PASSWORD_FILE=/run/password -e POSTGRES_DB=likeness "$image" >/dev/null 9>&-
  fi
  # Ready is what answers over TCP: the server that the image sets itself up with does not.
  for _ in $(seq 60); do
    if docker exec "$name" pg_isready -q -h 127.0.0.1; then
      print_url "$1" "$(docker port "$name" 5432/tcp | head -n 1 | sed 's/.*://')"
      return
    fi
    sleep 1
  done
  die "the container $name is not ready: docker logs $name"
}

stop() {
  local home bin
  home=$(place "$1")
  bin=$(install)
  [ -d "$home" ] || return 0
  lock "$home/lock"
  cd /
  if [ "$bin" = docker ]; then
    docker rm -f "$(container_of "$home")" >/dev/null 2>&1 || true
    return
  fi
  running "$bin" "$home" || return 0
  as_server "$bin/pg_ctl" -D "$home/data" -m fast -w stop >/dev/null
}

case "${1:-}" in
install) install ;;
start | stop | url) "$1" "${2:?usage: postgres.sh $1 DIR}" ;;
*) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
