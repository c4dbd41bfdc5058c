"""Installs what requirements.txt asks for and this image lacks, below OUTPUT_DIR as it would lie
below /. Writes {"installed": [{"name", "version", "sha256"}]} or {"error": text}.

Only wheels are taken: unpacking one runs nothing of it. Its arguments say where pip finds them.
"""

import compileall
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.request

# The same packages make the same files.
TIME = 315532800

ROOT = os.environ["OUTPUT_DIR"]
WORK = os.path.join(ROOT, ".sway-install")
SOURCES = (".tar.gz", ".zip", ".tar.bz2", ".tar.xz")


def end(**answer):
    shutil.rmtree(WORK, ignore_errors=True)
    print(json.dumps(answer))
    sys.exit(1 if "error" in answer else 0)


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pip(*arguments):
    """Have pip install; its complaints are the error where it does not."""
    options = ["--isolated", "--disable-pip-version-check", "--no-cache-dir", "--no-input"]
    command = [sys.executable, "-m", "pip", *options, "install", "--only-binary=:all:", "--quiet"]
    done = subprocess.run(
        [*command, "--retries=2", "--timeout=15", *sys.argv[1:], *arguments],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdout=2,
        encoding="utf-8",
        errors="replace",
    )
    sys.stderr.write(done.stderr)
    if done.returncode != 0:
        lines = done.stderr.splitlines()
        told = [line[len("ERROR:") :].strip() for line in lines if line.startswith("ERROR:")]
        if "Retrying (" in done.stderr:
            told.append("the index did not answer")
        missing = re.search(r"No matching distribution found for ([A-Za-z0-9._-]+)", done.stderr)
        if missing and has_source(missing.group(1)):
            name = missing.group(1).rstrip(".")
            told.append(f"{name} has to be built from source, and only wheels are installed")
        end(error="; ".join(told or lines[-1:])[:2000] or f"pip exited with {done.returncode}")


def has_source(name):
    """Whether there is a source distribution where there is no wheel."""
    name = normalised(name)
    if "--find-links" in sys.argv:
        files = os.listdir(sys.argv[sys.argv.index("--find-links") + 1])
    elif "--index-url" in sys.argv:
        index = sys.argv[sys.argv.index("--index-url") + 1]
        try:
            with urllib.request.urlopen(f"{index.rstrip('/')}/{name}/", timeout=15) as page:
                text = page.read(16 << 20).decode("utf-8", "replace")
        except OSError:
            return False
        files = re.findall(r">\s*([^<>\s]+)\s*</a>", text)
    else:
        return False
    return any(normalised(file).startswith(f"{name}-") and file.endswith(SOURCES) for file in files)


def hide(path):
    """Mark what a package replaces, as layers of images do."""
    if os.path.lexists(path):
        at = ROOT + os.path.dirname(path)
        os.makedirs(at, exist_ok=True)
        open(os.path.join(at, f".wh.{os.path.basename(path)}"), "w").close()


def replace(name):
    """Hide an installed package of this name."""
    from importlib import metadata

    try:
        old = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return
    described = set()
    for file in old.files or []:
        path = os.path.abspath(str(old.locate_file(file)))
        if os.path.dirname(path).endswith((".dist-info", ".egg-info")):
            described.add(os.path.dirname(path))
        else:
            hide(path)
    for path in described:
        hide(path)


def everything():
    for folder, folders, files in os.walk(ROOT):
        for name in [*folders, *files]:
            yield folder, name


def main():
    try:
        import pip as installed
    except ImportError:
        end(error="the image has no pip")
    release = tuple(int(part) for part in re.findall(r"\d+", installed.__version__)[:2])
    if release < (22, 2):
        end(error=f"the image has pip {installed.__version__}, and 22.2 or a newer one is needed")
    os.makedirs(WORK)
    os.environ["TMPDIR"] = WORK
    report = os.path.join(WORK, "report.json")
    # What is there already stays, and is not asked for.
    pip("--dry-run", "--report", report, "-r", "requirements.txt")
    with open(report, encoding="utf-8") as file:
        resolved = json.load(file)["install"]
    packages = []
    for item in resolved:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        archive = item["download_info"]["archive_info"]
        sha256 = archive.get("hashes", {}).get("sha256") or archive["hash"].partition("sha256=")[2]
        packages.append({"name": name, "version": version, "sha256": sha256})
    if packages:
        pinned = os.path.join(WORK, "pinned.txt")
        with open(pinned, "w", encoding="utf-8") as file:
            for it in packages:
                file.write(f"{it['name']}=={it['version']} --hash=sha256:{it['sha256']}\n")
        pip(
            *("--root", ROOT, "--no-deps", "--ignore-installed", "--no-user", "--require-hashes"),
            *("--no-compile", "--no-warn-script-location", "-r", pinned),
        )
        shutil.rmtree(WORK)
        if any(name.startswith(".wh.") for _, name in everything()):
            end(error="a package holds a file whose name begins with .wh.")
        for folder, name in everything():
            os.utime(os.path.join(folder, name), (TIME, TIME), follow_symlinks=False)
        # Nobody writes them later: the image is read-only.
        from py_compile import PycInvalidationMode

        mode = PycInvalidationMode.UNCHECKED_HASH
        for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
            if os.path.isdir(ROOT + place):
                compileall.compile_dir(ROOT + place, ddir=place, quiet=2, invalidation_mode=mode)
        for it in packages:
            replace(it["name"])
        for folder, name in everything():
            os.utime(os.path.join(folder, name), (TIME, TIME), follow_symlinks=False)
    packages.sort(key=lambda it: normalised(it["name"]))
    end(installed=packages)


main()
