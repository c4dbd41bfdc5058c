# Calls a handler once. Standard input is its input; standard output its logs, in order, whatever
# writes them; what was standard error carries nothing but the answer.
import sys
sys.path.pop(0)
import atexit, importlib, json, logging, os, time, traceback
sys.path.insert(0, "/code")

RESULT_MAX, ERROR_MAX = {RESULT_LEN_MAX}, {ERROR_LEN_MAX}
handler = sys.argv.pop()
answer_fd = os.dup(2)
os.dup2(1, 2)
logging.basicConfig(level=logging.INFO)


def trace(error):
    # The user's frames alone: none of these lines, none of the import system.
    tb = error.__traceback__
    importing = "<frozen importlib", importlib.__path__[0]
    while tb and (
        tb.tb_frame.f_globals is globals() or tb.tb_frame.f_code.co_filename.startswith(importing)
    ):
        tb = tb.tb_next
    return "".join(traceback.format_exception(type(error), error, tb))


def call():
    message = json.load(sys.stdin.buffer)
    module, function = handler.rsplit(".", 1)
    # A module of the user's may have the name of one that is loaded.
    sys.modules.pop(module.split(".")[0], None)
    try:
        function = getattr(importlib.import_module(module), function, None)
        if not callable(function):
            return None, f"{handler}: the module {module} has no such function"
        result = function(message["event"], message.get("context") or {})
    except BaseException as error:
        return None, trace(error)
    try:
        result = json.dumps(result, allow_nan=False)
    except Exception as error:
        return None, f"the result of {handler} is not JSON: {error}"
    if len(result) > RESULT_MAX:
        return None, f"the result of {handler} is {len(result)} bytes of JSON, more than {RESULT_MAX}"
    return result, None


begun = time.monotonic()
result, error = call()
took = int((time.monotonic() - begun) * 1000)
if error is not None:
    error = error.strip("\n")[-ERROR_MAX:]
try:
    atexit._run_exitfuncs()
    for stream in sys.stdout, sys.stderr:
        stream.flush()
except Exception:
    pass
answer = json.dumps({"result": result, "error": error, "duration_ms": took})
with open(answer_fd, "w") as stream:
    stream.write("\n" + answer + "\n")
# Threads that the handler left do not hold the answer up.
os._exit(error is not None)
