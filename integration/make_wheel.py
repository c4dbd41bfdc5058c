"""Makes a wheel of one module, with a program say-NAME that calls its main().

    make_wheel.py FOLDER NAME VERSION SOURCE [REQUIREMENT...]
"""

import base64
import hashlib
import sys
import zipfile

folder, name, version, source, *needs = sys.argv[1:]
info = f"{name}-{version}.dist-info"
needs = "".join(f"Requires-Dist: {need}\n" for need in needs)
files = {
    f"{name}.py": source,
    f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
    f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{info}/entry_points.txt": f"[console_scripts]\nsay-{name} = {name}:main\n",
}
record = ""
with zipfile.ZipFile(f"{folder}/{name}-{version}-py3-none-any.whl", "w") as wheel:
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
        record += f"{path},sha256={digest.decode().rstrip('=')},{len(text.encode())}\n"
        wheel.writestr(path, text)
    wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
