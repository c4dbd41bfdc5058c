import os
from pathlib import Path

import tomli

data = Path(os.environ["DATA_PATH"])
output = Path(os.environ["OUTPUT_DIR"])

message = tomli.loads(data.read_text())
print(f"{len(message)} entries in {data}, {os.environ['TIMEOUT']} seconds to read them")
(output / "names.txt").write_text("".join(f"{name}\n" for name in message))
