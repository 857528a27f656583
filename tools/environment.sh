# Sourced by quickstart.sh and run_tests.sh: one virtual environment for both, made once.

say() { printf '\n==> %s\n' "$*"; }
fail() { printf '\nerror: %s\n' "$*" >&2; exit 1; }

# The newest Python that bestiary takes, by name; `python3` may be older or newer than that.
find_python() {
  local name
  for name in python3.13 python3.12 python3.11 python3.10 python3; do
    if command -v "$name" >/dev/null && "$name" -c \
      'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      printf '%s' "$name"
      return
    fi
  done
  fail "no Python 3.10 to 3.13 found; install one (Debian and Ubuntu: apt install python3 python3-venv)"
}

# prepare EXTRAS: leaves PYTHON, the interpreter of an environment in which bestiary is installed from this checkout.
prepare() {
  local extras=$1 env stamp wanted free
  if [ -n "${VIRTUAL_ENV:-}" ]; then
    env=$VIRTUAL_ENV
    say "Using the active virtual environment: $env"
  else
    env=$PWD/.venv
    if [ -x "$env/bin/python" ]; then
      say "Using the virtual environment of this checkout: .venv"
    else
      local python
      python=$(find_python) || exit 1
      say "Making a virtual environment in .venv with $("$python" --version)"
      "$python" -m venv "$env" || { rm -rf "$env"; fail "$python cannot make virtual environments; Debian and Ubuntu: apt install python3-venv"; }
    fi
  fi
  PYTHON=$env/bin/python
  "$PYTHON" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' ||
    fail "$env has $("$PYTHON" --version); bestiary takes Python 3.10 to 3.13"

  # What was installed, and from where: the same request is not carried out twice.
  wanted=$(cat setup.cfg pyproject.toml constraints.txt | cksum)" $PWD"
  stamp=$env/bestiary-installed-${extras:-plain}
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    say "Packages are installed already"
    return
  fi
  free=$(df -Pk "$env" | awk 'NR==2 {print int($4 / 1048576)}')
  [ "$free" -ge 10 ] || [ -d "$env/lib/"python*/site-packages/torch ] ||
    fail "$env: $free GB free, PyTorch with its CUDA libraries takes some 6 GB, and as much again while it installs"
  say "Installing bestiary, PyTorch, mmdet and mmsegmentation: some 3 GB to fetch the first time"
  rm -rf build  # a leftover of an older build would get into the package
  "$PYTHON" -m pip install --disable-pip-version-check --quiet --progress-bar on \
    -c constraints.txt -e ".${extras:+[$extras]}" ||
    fail "pip could not install; its message is above (is the network, or your package index, within reach?)"
  printf '%s' "$wanted" >"$stamp"
}
