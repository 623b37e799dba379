#!/usr/bin/env bash
# Build and run the image of the Dockerfile with buildah 1.28 or newer, where there is no Docker engine (Linux, as root):
#
#   tools/container.sh build [--torch cpu] [--wheels DIR] [--pip-conf FILE] [--ca FILE] [--base-from-debootstrap]
#   tools/container.sh run [-v HOST:CONTAINER] [-e NAME=VALUE] [--user UID:GID] [-- COMMAND]
#   tools/container.sh test [smoke] [lab] [tests]     all three by default
#   tools/container.sh size
#
# DIR holds the CPU wheel of torch. --base-from-debootstrap makes a bare Debian 12 with its Python 3.11 where the base
# image cannot be pulled. Certificates, pip's settings and wheels are mounted during the build only.
# CRANE_IMAGE names the image (crane); STORAGE_DRIVER and BUILDAH_ISOLATION are buildah's own.
set -euo pipefail
root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
image="${CRANE_IMAGE:-crane}"
stand_in="localhost/crane-stand-in-base"
study="/home/crane/study" # the repository in the image
stranger=23456            # a user that neither the image nor, most likely, the host knows
lab_address="http://127.0.0.1:8888/api/status"
export STORAGE_DRIVER="${STORAGE_DRIVER:-overlay}" BUILDAH_ISOLATION="${BUILDAH_ISOLATION:-chroot}"

work="$(mktemp -d)"
container=""
remove() { [ -z "$container" ] || buildah rm "$container" >/dev/null && container=""; }
trap 'remove || true; rm -rf -- "$work"' EXIT
trap 'exit 130' INT TERM

say() { echo "container: $*" >&2; }
fail() { say "$*" && exit 2; }
need() { command -v "$1" >/dev/null || fail "$1 is not installed; Debian has it in the package $1"; }

image_id() { # the digest that `docker image inspect --format '{{.Id}}'` gives
    local id && id="$(buildah inspect --type=image --format='{{.FromImageID}}' "$image" 2>/dev/null)" ||
        fail "there is no image '$image'; make it with: tools/container.sh build"
    echo "sha256:$id"
}

make_stand_in() {
    need debootstrap
    say "making a stand-in for the base image with debootstrap, about a minute"
    container="$(buildah from scratch)"
    local folder && folder="$(buildah mount "$container")"
    debootstrap --variant=minbase --include=ca-certificates,python3.11,python3.11-venv,python3-distutils \
        bookworm "$folder" >&2 || fail "debootstrap failed, its last lines are above"
    ln -s /usr/bin/python3.11 "$folder/usr/local/bin/python"
    ln -s /usr/bin/python3.11 "$folder/usr/local/bin/python3"
    rm -f -- "$folder"/var/cache/apt/archives/*.deb
    buildah config --env="PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" --cmd=python3 "$container"
    buildah commit --quiet "$container" "$stand_in" >/dev/null
    remove
}

build() {
    local options=() settings="" torch=cuda certificates=/etc/ssl/certs/ca-certificates.crt path
    while [ $# -gt 0 ]; do
        case "$1" in
            --torch) torch="${2-}" ;;
            --base-from-debootstrap)
                buildah inspect --type=image "$stand_in" >/dev/null 2>&1 || make_stand_in
                options+=(--pull-never "--build-arg=BASE=$stand_in")
                shift && continue
                ;;
            --ca | --pip-conf | --wheels)
                path="$(realpath -e -- "${2-}" 2>/dev/null)" || fail "${2-} does not exist"
                case "$1" in
                    --pip-conf) options+=("--secret=id=pip.conf,src=$path") ;;
                    --wheels) options+=("--volume=$path:/run/crane-wheels:ro") settings+="find-links = /run/crane-wheels"$'\n' ;;
                    --ca)
                        echo "system-certs = true" >"$work/uv.toml"
                        options+=("--volume=$path:$certificates:ro" "--volume=$work/uv.toml:/etc/uv/uv.toml:ro")
                        settings+="cert = $certificates"$'\n'
                        ;;
                esac
                ;;
            *) fail "unknown option '$1'; see the first lines of tools/container.sh" ;;
        esac
        shift 2 || fail "$1 needs a value"
    done
    if [ -n "$settings" ]; then # of lower rank than the user's pip.conf, which the Dockerfile reads at /etc/pip.conf
        printf '[global]\n%s' "$settings" >"$work/pip.conf"
        options+=("--volume=$work/pip.conf:/etc/xdg/pip/pip.conf:ro")
    fi
    options+=("--build-arg=TORCH=$torch")
    options+=("--build-arg=COMMIT=$(git -C "$root" describe --always --abbrev=40 --exclude='*' --dirty 2>/dev/null || true)")
    # No cache: buildah 1.28 takes a cached layer for one whose build argument (the commit) has changed since.
    buildah bud --layers --no-cache --format=docker "--tag=$image" "${options[@]}" "$root" ||
        fail "buildah bud failed, its last lines are above"
    say "built $image in $SECONDS s"
}

run() { # a new container, removed afterwards; the manifest finds the image's name and digest in its environment
    local options=() digest status=0
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    [ $# -eq 0 ] || shift
    [ $# -gt 0 ] || set -- ./run_all.sh
    digest="$(image_id)" || exit 2
    container="$(buildah from --pull-never "$image")" || fail "buildah from failed, its message is above"
    # An engine gives the container's name an address, chroot isolation does not, and torchrun looks for it.
    buildah run --hostname=localhost "--env=CRANE_IMAGE=$image" "--env=CRANE_IMAGE_DIGEST=$digest" \
        ${options[@]+"${options[@]}"} "$container" -- "$@" || status=$?
    remove
    return "$status"
}

test_smoke() { # outputs must lie in the mounted folder, belong to the user and name the image
    local artifacts="$work/artifacts" digest options
    mkdir "$artifacts" && chmod 755 "$work" && chown "$stranger:$stranger" "$artifacts"
    options=(--user "$stranger:$stranger" -v "$artifacts:$study/artifacts")
    run "${options[@]}" -- ./run_all.sh --profile smoke || fail "the smoke study failed in the image"
    run "${options[@]}" -- crane verify artifacts/smoke || fail "the smoke study of the image differs from its reference"
    [ -z "$(find "$artifacts" -type f ! \( -uid "$stranger" -gid "$stranger" \))" ] || fail "outputs belong to another user"
    digest="$(image_id)" || exit 2
    grep -q "$digest" "$artifacts/smoke/manifest.json" || fail "the manifest does not name the image"
    say "smoke: equal to its reference, outputs belong to the user, the manifest names the image"
}

lab_answer() { curl --silent --output /dev/null --write-out '%{http_code}' -H "Authorization: token $1" "$lab_address" || true; }

test_lab() { # as the service `lab` of compose.yaml: it must ask for its token and take it
    need curl
    [ "$(lab_answer "")" = 000 ] || fail "something else answers on port 8888; end it first"
    local token process answers
    token="$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"
    setsid "$0" run --user "$stranger:$stranger" -e "JUPYTER_TOKEN=$token" -- \
        ./run_all.sh --lab --ip 0.0.0.0 --port 8888 &
    process=$!
    for _ in $(seq 180); do
        [ "$(lab_answer "$token")" = 000 ] && kill -0 "$process" 2>/dev/null || break
        sleep 1
    done
    answers="$(lab_answer "$token") $(lab_answer wrong)"
    kill -TERM -- "-$process" && wait "$process" || true
    [ "$answers" = "200 403" ] || fail "JupyterLab answered $answers to its token and to a wrong one, not 200 403"
    say "lab: answers, with its token only"
}

test_tests() {
    run --user "$stranger:$stranger" -- ./run_tests.sh -m "not slow" || fail "style, types or tests failed in the image"
    say "tests: passed"
}

need buildah
verb="${1-}"
shift || true
case "$verb" in
    build) build "$@" ;;
    run) run "$@" ;;
    test) for check in ${@:-smoke lab tests}; do "test_$check"; done ;;
    size)
        digest="$(image_id)" || exit 2
        echo "$digest $(buildah images --format='{{.Size}}' "$image")"
        ;;
    *) fail "unknown command '$verb'; give build, run, test or size" ;;
esac
