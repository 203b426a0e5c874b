#!/usr/bin/env bash
# The notebook side as Google Colab ships it: an older ipywidgets and IPython.
# Installs constraints/colab.txt into a small environment in front of the main one,
# then runs the widget tests, and notebook 01 with a front end and without.
# Usage: check_colab.sh [MAIN_ENVIRONMENT [COLAB_ENVIRONMENT]]
set -euo pipefail
cd "$(dirname "$0")/.."

main=${1:-.venv}
colab=${2:-.colab-venv}
pins=constraints/colab.txt
stamp=$colab/.installed

if ! cmp -s "$pins" "$stamp"; then
    echo "Creating $colab with what Colab ships (under a minute) ..."
    rm -rf "$colab"
    "$main/bin/python" -m venv "$colab" 2>/dev/null ||
        "$main/bin/python" -m virtualenv --quiet "$colab"
    "$colab/bin/python" -m pip install --quiet --disable-pip-version-check \
        --retries 5 -r "$pins"
    cp "$pins" "$stamp"
fi

# What is not pinned here is seen behind it, torch above all.
site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
echo "import site; site.addsitedir('$(site "$main")')" >"$(site "$colab")/zz_main.pth"

# A kernel of that environment, under the usual name and in a path of its own.
kernel=$colab/jupyter/kernels/python3
mkdir -p "$kernel"
cat >"$kernel/kernel.json" <<JSON
{"argv": ["$PWD/$colab/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
 "display_name": "Python 3 as on Colab", "language": "python"}
JSON

export OMP_NUM_THREADS=1 PYDEVD_DISABLE_FILE_VALIDATION=1
"$colab/bin/python" -c 'import ipywidgets; print("ipywidgets", ipywidgets.__version__)'
"$colab/bin/python" -m pytest tests/ui -q -p no:cacheprovider
JUPYTER_PATH="$PWD/$colab/jupyter" "$main/bin/python" scripts/run_on_colab_kernel.py
