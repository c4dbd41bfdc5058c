# Waits on standard input for one job, and becomes it: the interpreter is started, and on request
# what $SWAY_PRELOAD names is imported, before anybody knows the job. Uses nothing that Python has
# not loaded by itself, so that a job finds the modules that it would find anyway.
import sys
fresh = {name: value for name, value in globals().items() if name.startswith("__")}
loaded = {name.partition(".")[0] for name in sys.modules}
import os
# The directory of `-c`: nothing is to be imported from there.
has_own = sys.path[:1] == [""]
if has_own:
    sys.path.pop(0)


def message():
    return taken(int(taken(8), 16))


def taken(length):
    text = b""
    while len(text) < length:
        part = os.read(0, length - len(text))
        if not part:
            os._exit(0)
        text += part
    return text


def tell(*fields):
    line = " ".join(",".join(field) or "-" for field in fields) + "\n"
    os.write(1, line.encode())


def anonymous():
    with open("/proc/self/status") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024


def preload():
    # What a module says when it is imported is no job's output.
    kept = os.dup(1), os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1), os.dup2(null, 2)
    before, missing = anonymous(), []
    for name in os.environ.get("SWAY_PRELOAD", "").replace(",", " ").split():
        try:
            __import__(name)
        except BaseException:
            missing.append(name)
    os.dup2(kept[0], 1), os.dup2(kept[1], 2)
    for fd in null, *kept:
        os.close(fd)
    new = {name.partition(".")[0] for name in sys.modules} - loaded
    tell([str(max(anonymous() - before, 0))], missing, sorted(new))


tell([])
job = message()
while job == b"preload":
    preload()
    job = message()
hostname, directory, has_stdin, *argv = map(os.fsdecode, job.split(b"\0"))
os.environ["HOSTNAME"] = hostname
os.chdir(directory)
if not has_stdin:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdin = sys.__stdin__ = open(
        0, encoding=sys.stdin.encoding, errors=sys.stdin.errors, closefd=False
    )
    sys.stdin.buffer.raw.name = "<stdin>"
if hasattr(sys, "orig_argv"):
    sys.orig_argv = [sys.orig_argv[0], *argv]

sys.modules["__main__"] = main = type(sys)("__main__")
main.__dict__.update(fresh)
if argv[0] == "-u":
    _, _, code, *rest = argv
    sys.argv, own, file = ["-c", *rest], "", "<string>"
else:
    sys.argv, own, file = argv, os.path.dirname(os.path.realpath(argv[0])), argv[0]
    if sys.version_info >= (3, 9):
        file = os.getcwd() + "/" + (file[2:] if file.startswith("./") else file)
    loader = sys.modules["_frozen_importlib_external"].SourceFileLoader
    main.__file__, main.__loader__ = file, loader("__main__", file)
    main.__cached__ = None
    with open(file, "rb") as source:
        code = source.read()
if has_own:
    sys.path.insert(0, own)


def own_frames_alone(kind, error, trace):
    # The first frame is this file's.
    sys.excepthook = hook
    hook(kind, error.with_traceback(trace.tb_next), trace.tb_next)


try:
    exec(compile(code, file, "exec", dont_inherit=True), vars(main))
except BaseException:
    hook, sys.excepthook = sys.excepthook, own_frames_alone
    raise
