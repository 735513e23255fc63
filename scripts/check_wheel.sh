#!/usr/bin/env bash
# Draw and ask with the built wheel: no extras, no source tree.
# Usage: scripts/check_wheel.sh PYTHON DIST    (PYTHON makes the environment; DIST has one wheel)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$1
wheels=("$2"/openjanus-*.whl)
[[ ${#wheels[@]} -eq 1 && -f ${wheels[0]} ]] || { echo "$2 must hold one wheel" >&2; exit 1; }

# The environment is kept between runs, for torch is large; the wheel itself is always put in anew.
venv=$PWD/build/wheel-venv
# It is made anew when what is to be installed may have changed: what is no longer asked for must
# not be there by chance.
if [[ ! -x $venv/bin/pip || pyproject.toml -nt $venv/made || constraints.txt -nt $venv/made ]]; then
    "$python" -m venv --clear "$venv"
    touch "$venv/made"
fi
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt)
"${pip[@]}" "${wheels[0]}"
"${pip[@]}" --no-deps --force-reinstall "${wheels[0]}"

outside=$(mktemp -d)
trap 'rm -rf "$outside"' EXIT
cd "$outside"
export PATH="$venv/bin:$PATH"
openjanus env
openjanus info nano
openjanus draw "a photo of an apple" --model nano --n 2 --seed 0 --output drawings
openjanus chat "What is in the picture?" --model nano --image drawings/0.png --max-new-tokens 16
openjanus reconstruct drawings/0.png --model nano --output again.png
for file in drawings/0.png drawings/1.png drawings/sheet.png again.png; do
    [[ -s $file ]] || { echo "$file was not written" >&2; exit 1; }
done
# The page's files have no extra to wait for.
python -c 'from openjanus.serve.page import page_files
found = {file.path for file in page_files()}
assert {"/", "/page/main.js", "/page/style.css", "/page/icon.svg"} <= found, found'
python -c 'from pathlib import Path
from openjanus.web.export import write_page
folder = Path("tab")
folder.mkdir()
write_page(folder, licence="", runtime="")
found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
assert {"index.html", "page/api.js", "tab/worker.js", "tab/tab.css"} <= found, found'
echo "the wheel draws and answers"
