"""The page in a real browser: what a person does with it, and what it looks like.

    page.py URL IMAGE CHROMIUM SCREENSHOTS      (SWAY_TOKEN in the environment)

Prints one line for each thing that it proves, `ok<TAB>SENTENCE`, or `FAIL<TAB>SENTENCE<TAB>WHY`. Screenshots
are left in the folder for people to look at.
"""

import base64
import json
import os
import re
import sys
import time
import traceback
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

URL, IMAGE, CHROMIUM, SHOTS = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
TOKEN = os.environ["SWAY_TOKEN"]

# A container of a first start on a busy machine takes its time.
PATIENCE_MS = 30_000

HANDLER = b"""import time
def handler(event, context):
    for step in range(event["steps"]):
        print("step", step + 1, flush=True)
        time.sleep(0.7)
    return {"sum": event["a"] + 1, "markup": "<b>bold</b>"}
"""
HOSTILE = """import sys
print("<script>alert(1)</script> \\x1b[31mred\\x1b[0m \\x1b[2J", "\\u202ertl", flush=True)
print("<img src=x onerror=alert(2)>", file=sys.stderr, flush=True)
for n in range(12):
    print(f"{n:2} {n * n:4}", flush=True)
"""
EVENT = b'{"version": "v1", "context": {}, "event": {"a": 41, "steps": 4}}'
HOSTILE_NAME = "<img src=x onerror=alert(3)>.py"
MARKUP = "<script>alert(4)</script><img src=x onerror=alert(5)>"


class Browser:
    """One signed-in page, and everything that it asked for and complained about."""

    def __init__(self, playwright):
        self.chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        self.requests, self.complaints = [], []
        # Of requests that a check expects to be refused.
        self.refusals_expected = False
        self.page = self.open(self.chromium.new_context(viewport={"width": 1280, "height": 900}))

    def open(self, context) -> Page:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", self.console)
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.complaints.append("a dialog"), dialog.dismiss()))
        return page

    def console(self, message):
        refused = message.text.startswith("Failed to load resource") and self.refusals_expected
        if message.type in ("error", "warning") and not refused:
            self.complaints.append(f"{message.type}: {message.text}")


expect.set_options(timeout=PATIENCE_MS)
failed = 0


@contextmanager
def proves(sentence: str):
    global failed
    try:
        yield
        print(f"ok\t{sentence}", flush=True)
    except Exception as error:  # noqa: BLE001: whatever it is, the next check goes on
        failed += 1
        where = traceback.extract_tb(error.__traceback__)[-1 if isinstance(error, AssertionError) else 1]
        why = re.sub(r"\s+", " ", f"{type(error).__name__} at line {where.lineno}: {error}")
        print(f"FAIL\t{sentence}\t{why[:600]}", flush=True)


def sign_in(page: Page) -> None:
    page.get_by_label("Token of this worker").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()


def badge(page: Page):
    return page.locator("#summary .badge")


def paste_script(page: Page, code: str, **limits: str) -> None:
    page.goto(f"{URL}/new")
    page.get_by_role("radio", name="Script").check()
    page.get_by_label("or paste the code").fill(code)
    page.get_by_label("Image").fill(IMAGE)
    for label, value in limits.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_role("button", name="Run", exact=True).click()


def ask(path: str, body: dict | None = None, user: str = "operator") -> dict:
    """What a program does beside the browser."""
    headers = {"authorization": f"Bearer {TOKEN}", "x-sway-user": user, "content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(URL + path, data, headers), timeout=30) as answer:
        return json.load(answer)


def submit(name: str, files: dict[str, str], user: str = "tester", owner: str = "operator", **more) -> str:
    """The id of a job that waits for its owner."""
    sent = [{"path": path, "content": base64.b64encode(code.encode()).decode()} for path, code in files.items()]
    program = {"kind": "folder", "files": sent, "entry": next(iter(files))}
    job = {"image": IMAGE, "program": program, "args": more.pop("args", [])}
    return ask("/v1/submissions", {"owner": owner, "name": name, "job": job, **more}, user)["id"]


def ended(job: str) -> dict:
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while time.monotonic() < deadline:
        found = ask(f"/v1/jobs/{job}?all=true")
        if found["state"] not in ("pending", "approved", "running"):
            return found
        time.sleep(0.2)
    raise AssertionError(f"job {job} does not end")


def submitted(page: Page) -> None:
    page.wait_for_url(re.compile("/run/"))


def checks(browser: Browser) -> None:
    page = browser.page

    with proves("a wrong token is refused at its field, and the right one signs in"):
        page.goto(URL)
        browser.refusals_expected = True
        page.get_by_label("Token of this worker").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("#token-error")).to_contain_text("not the worker's token")
        browser.refusals_expected = False
        sign_in(page)

    with proves("a handler is submitted from files, and its output arrives while it runs"):
        page.get_by_role("link", name="New run").first.click()
        page.get_by_label("Code files").set_input_files(
            [{"name": "main.py", "mimeType": "text/x-python", "buffer": HANDLER}]
        )
        page.get_by_label("JSON files").set_input_files(
            [{"name": "data.json", "mimeType": "application/json", "buffer": EVENT}]
        )
        page.get_by_label("Image").fill(IMAGE)
        page.get_by_label("Memory", exact=True).fill("200")
        page.get_by_label("Time", exact=True).fill("60")
        page.get_by_role("button", name="Run", exact=True).click()
        submitted(page)
        log = page.locator("#log")
        expect(log).to_contain_text("step 1")
        assert "step 4" not in (log.text_content() or ""), "it came at once"
        expect(badge(page)).to_have_text("running")
        shots(page, "live")
        expect(log).to_contain_text("step 4")
        expect(badge(page)).to_have_text("completed")

    with proves("its end is told without a reload: result, times, caches, limits, memory and CPU"):
        expect(page.locator("#live")).to_contain_text("completed")
        expect(page.locator(".phases li")).to_have_count(5)
        expect(page.locator("#facts")).to_contain_text("of 200 MiB")
        expect(page.locator("#cancel")).to_have_count(0)
        for chart in ["memory", "cpu"]:
            expect(page.locator(f"#{chart}-chart .line")).to_have_attribute("d", re.compile("L.*L"))
        expect(page.locator("#usage-memory")).to_contain_text("of 200 MiB")
        expect(page.locator(".answer")).to_contain_text('"sum": 42')

    with proves("markup, escapes and overrides of an output stay text"):
        shots(page, "run")
        assert page.locator("main b:has-text('bold')").count() == 0
        paste_script(page, HOSTILE)
        submitted(page)
        log = page.locator("#log")
        expect(badge(page)).to_have_text("completed")
        expect(log.locator(".stderr")).to_have_text("<img src=x onerror=alert(2)>\n")
        text = log.text_content() or ""
        assert "<script>alert(1)</script> red \u241b[2J \\u{202e}rtl" in text, repr(text)
        assert page.locator("main img, main script").count() == 0
        shots(page, "streams")

    with proves("a run is found again by search and filters"):
        page.goto(URL)
        page.get_by_label("Search").fill("main.handler")
        page.get_by_label("State").select_option("completed")
        page.get_by_label("Image").fill(IMAGE)
        page.get_by_role("button", name="Filter").click()
        page.wait_for_url(re.compile("q=main.handler"))
        expect(page.locator(".card")).to_have_count(1)
        page.locator(".card").click()
        expect(badge(page)).to_have_text("completed")
        page.goto(f"{URL}/?q=main.handler&state=failed")
        expect(page.get_by_text("No runs.")).to_be_visible()

    with proves("what the worker refuses is told at the field"):
        browser.refusals_expected = True
        for label, value, field in [
            ("Image", "nonesuch", "image"),
            ("Image", "NOT A NAME", "image"),
            ("Processes", "1000000", "pids"),
            ("Memory", "1", "memory"),
            ("CPUs", "", "cpus"),
        ]:
            page.goto(f"{URL}/new")
            page.get_by_role("radio", name="Script").check()
            page.get_by_label("or paste the code").fill("print(1)")
            page.get_by_label("Image").fill(IMAGE)
            page.get_by_label(label, exact=True).fill(value)
            page.get_by_role("button", name="Run", exact=True).click()
            expect(page.locator(f"#{field}-error")).not_to_be_empty()
            expect(page.locator(f"#{field}")).to_be_focused()
            expect(page.locator(f"#{field}")).to_have_attribute("aria-invalid", "true")
        shots(page, "refused")
        page.goto(f"{URL}/new")
        page.get_by_label("or paste the code").fill("def handler(event, context): pass")
        page.get_by_label("or paste it", exact=True).fill('{"version": ')
        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.locator("#event-error")).to_contain_text("no JSON")
        browser.refusals_expected = False

    with proves("a running job is cancelled"):
        paste_script(page, "import time\nwhile True:\n    print('on', flush=True)\n    time.sleep(0.2)", Time="60")
        submitted(page)
        expect(page.locator("#log")).to_contain_text("on")
        page.get_by_role("button", name="Cancel").click()
        expect(badge(page)).to_have_text("cancelled")
        expect(page.locator("#cancel")).to_have_count(0)

    with proves("a file's hostile name stays text wherever it is shown"):
        page.goto(f"{URL}/new")
        page.get_by_role("radio", name="Script").check()
        page.get_by_label("Code files").set_input_files(
            [{"name": HOSTILE_NAME, "mimeType": "text/plain", "buffer": b"print('x')"}]
        )
        page.get_by_label("Image").fill(IMAGE)
        page.get_by_role("button", name="Run", exact=True).click()
        submitted(page)
        expect(page.locator("h1 bdi")).to_have_text(HOSTILE_NAME)
        page.goto(URL)
        expect(page.locator(".card bdi", has_text=HOSTILE_NAME).first).to_be_visible()
        assert page.locator("main img").count() == 0

    with proves("a long output stays bounded in the page, and a reader who looks back is left alone"):
        paste_script(
            page,
            "import time\nfor n in range(60000):\n    print(f'line {n:06} ' + 'x' * 40)\n"
            "print('END', flush=True)\ntime.sleep(4)\nprint('AFTER', flush=True)",
            Time="60",
        )
        submitted(page)
        log = page.locator("#log")
        expect(log).to_contain_text("END")
        length = log.evaluate("log => log.textContent.length")
        assert length < 1_300_000, f"{length} characters"
        assert log.evaluate("log => log.scrollHeight - log.scrollTop - log.clientHeight") < 40
        expect(log).to_contain_text("Earlier output is left out here")
        log.evaluate("log => { log.scrollTop = 1000; }")
        expect(log).to_contain_text("AFTER")
        assert log.evaluate("log => log.scrollHeight - log.scrollTop - log.clientHeight") > 1000
        page.get_by_role("button", name="Newest output").click()
        assert log.evaluate("log => log.scrollHeight - log.scrollTop - log.clientHeight") < 40

    with proves("a run is submitted by keyboard alone"):
        page.goto(f"{URL}/new")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        tab_to(page, "[name=kind]")
        page.keyboard.press("ArrowDown")
        tab_to(page, "#code")
        page.keyboard.type("print('by hand')")
        tab_to(page, "#image")
        page.keyboard.type(IMAGE)
        tab_to(page, "#run")
        page.keyboard.press("Enter")
        submitted(page)
        expect(page.locator("#log")).to_contain_text("by hand")
        expect(badge(page)).to_have_text("completed")

    with proves("an inbox shows what waits, and finds it by text, state and submitter"):
        first = submit("Mean of rain", {"main.py": "print(1)\n"}, description="For the report", tags=["weather"])
        ask(f"/v1/jobs/{first}/approve?all=true", {"reason": "Sums alone"})
        ended(first)
        hostile = submit(
            MARKUP,
            {
                "main.py": f"import subprocess\n# \u202e\u200b{MARKUP}\nprint({MARKUP!r}, flush=True)\n",
                f"{MARKUP.replace('/', '')}.txt": MARKUP,
            },
            description=f"{MARKUP}\nsecond line",
            tags=[MARKUP[:60]],
            args=[MARKUP],
        )
        others = [submit(f"Batch {n}", {"main.py": f"print({n})\n"}, user="ada", owner="tester") for n in range(3)]
        page.goto(URL)
        page.get_by_role("link", name="Inbox").click()
        expect(page.locator(".entry")).to_have_count(4)
        expect(page.locator(".entry .badge", has_text="pending")).to_have_count(4)
        expect(page.locator(".entry .title", has_text=MARKUP)).to_be_visible()
        expect(page.locator(f"[data-entry='{hostile}'] .found")).to_have_text("1 finding")
        expect(page.locator(".entry", has_text="no findings")).to_have_count(3)
        shots(page, "inbox")
        page.set_viewport_size({"width": 390, "height": 844})
        page.evaluate("scrollTo(0, 0)")
        expect(page.locator(".entry .title").first).to_be_in_viewport()
        covered = page.evaluate("""() => {
            const { top, bottom } = document.querySelector('#decision').getBoundingClientRect();
            return Math.max(0, Math.min(bottom, innerHeight) - Math.max(top, 0)) / innerHeight;
        }""")
        assert covered < 0.2, f"the decision covers {covered:.0%} of a phone's screen"
        page.set_viewport_size({"width": 1280, "height": 900})
        page.get_by_label("Search").fill("weather")
        page.get_by_label("State").select_option("")
        page.get_by_role("button", name="Filter").click()
        expect(page.locator(".entry .title")).to_have_text(["Mean of rain"])
        expect(page.locator(".entry")).to_contain_text("Sums alone")
        page.goto(f"{URL}/inbox")
        page.get_by_label("Submitter").fill("ada")
        page.get_by_role("button", name="Filter").click()
        expect(page.locator(".entry")).to_have_count(3)

    with proves("a review shows every file, what the policy finds and what changed, and all of it is text"):
        page.goto(f"{URL}/inbox")
        page.locator(".entry .title", has_text=MARKUP).click()
        expect(page.locator("h1")).to_contain_text(MARKUP)
        expect(page.locator(".description")).to_contain_text(MARKUP)
        expect(page.locator("#files summary")).to_have_count(2)
        expect(page.locator("#files summary").nth(1)).to_contain_text(MARKUP.replace("/", ""))
        expect(page.locator("#f1-l1")).to_contain_text(MARKUP)
        expect(page.locator("#f0-l2")).to_contain_text("# \\u{202e}\\u{200b}" + MARKUP)
        colours = page.evaluate("""() => ['.code-keyword', '.code-comment', '.code-text', '#f0-l1'].map(
            (part) => getComputedStyle(document.querySelector(`#f0-l1 ${part}, #f0-l2 ${part}, #f0-l3 ${part}, ${part}`)).color)
        """)
        assert len(set(colours)) == 4, colours
        expect(page.locator("#changes ins").first).to_contain_text("arguments")
        expect(page.locator("#changes ins", has_text="import subprocess")).to_be_visible()
        expect(page.locator("#changes del", has_text="print(1)")).to_be_visible()
        page.locator("#findings a").first.click()
        expect(page.locator("#f0-l1")).to_be_in_viewport()
        assert page.locator("main img, main script").count() == 0
        page.goto(f"{URL}/job/{hostile}")
        shots(page, "review")
        fits(page, 360)
        page.set_viewport_size({"width": 1280, "height": 900})

    with proves("a job is approved where it was read, and its name, reason and output stay text"):
        page.get_by_label("Reason").fill(MARKUP)
        page.get_by_role("button", name="Approve").click()
        expect(page.locator("#deciding")).to_contain_text("Approved by operator")
        expect(page.locator("#deciding")).to_contain_text(MARKUP)
        assert ended(hostile)["state"] == "completed"
        page.reload()
        expect(badge(page)).to_have_text("completed")
        page.get_by_role("link", name="Output and logs").click()
        expect(page.locator("#log")).to_contain_text(MARKUP)
        expect(page.locator("#summary")).to_contain_text(MARKUP)
        assert page.locator("main img, main script").count() == 0

    with proves("a job is rejected with a reason only"):
        rejected = submit("Everything", {"main.py": "print(open('/data').read())\n"})
        page.goto(f"{URL}/job/{rejected}")
        page.get_by_role("button", name="Reject").click()
        expect(page.locator("#reason-error")).to_contain_text("Say why")
        expect(page.locator("#reason")).to_be_focused()
        page.get_by_label("Reason").fill("Too broad")
        page.get_by_role("button", name="Reject").click()
        expect(badge(page)).to_have_text("rejected")
        decision = ask(f"/v1/jobs/{rejected}?all=true")["submission"]["decision"]
        assert (decision["approved"], decision["reason"]) == (False, "Too broad"), decision

    with proves("several jobs are approved at once, by keyboard, and of each is told what happened"):
        page.goto(f"{URL}/inbox?submitter=ada")
        # Somebody is faster.
        ask(f"/v1/jobs/{others[1]}/reject?all=true", {"reason": "Not this one"})
        tab_to(page, "#choose-all")
        page.keyboard.press("Space")
        expect(page.locator("#chosen")).to_have_text("3 chosen")
        tab_to(page, "#reason")
        page.keyboard.type("All fine")
        tab_to(page, "#approve")
        browser.refusals_expected = True
        page.keyboard.press("Enter")
        expect(page.locator("#told")).to_contain_text("Approved: 2 of 3")
        browser.refusals_expected = False
        expect(page.locator(f"[data-entry='{others[1]}'] .outcome")).to_contain_text("was rejected by")
        for job in [others[0], others[2]]:
            expect(page.locator(f"[data-entry='{job}'] .outcome")).to_have_text("Approved.")
            found = ended(job)
            assert found["state"] == "completed" and found["submission"]["decision"]["reason"] == "All fine", found
        shots(page, "decided")

    with proves("a submitter sees what became of the jobs, with reasons, logs and outputs"):
        writes = "import os\nopen(os.environ['OUTPUT_DIR'] + '/sum.txt', 'w').write('42')\nprint('done')\n"
        own = submit("My sums", {"main.py": writes}, user="operator", owner="tester")
        ask(f"/v1/jobs/{own}/approve?all=true", {"reason": "Go on"})
        ended(own)
        page.goto(URL)
        page.get_by_role("link", name="Submissions").click()
        expect(page.locator(".entry .title")).to_have_text(["My sums"])
        expect(page.locator(".entry")).to_contain_text("Go on")
        expect(page.locator(".entry .badge")).to_have_text("completed")
        expect(page.get_by_role("link", name="Files in /output")).to_be_visible()
        shots(page, "submissions")
        page.get_by_role("link", name="Output and logs").click()
        expect(page.locator("#log")).to_contain_text("done")

    with proves("lists and runs can be read without JavaScript"):
        plain = browser.open(browser.chromium.new_context(java_script_enabled=False))
        plain.goto(f"{URL}/run/1")
        sign_in_without_scripts(plain)
        expect(plain.locator("pre.stdout")).to_contain_text("step 4")
        plain.goto(URL)
        plain.get_by_label("Ended by").select_option("cancelled")
        plain.get_by_role("button", name="Filter").click()
        expect(plain.locator(".card")).to_have_count(1)
        plain.goto(f"{URL}/new")
        expect(plain.get_by_text("JavaScript, which does not run")).to_be_visible()
        plain.context.close()

    with proves("nothing overflows a phone or a desktop, and the pages show what they are for"):
        page.goto(URL)
        shots(page, "list")
        page.goto(f"{URL}/new")
        shots(page, "form")
        page.goto(f"{URL}/run/1")
        expect(page.locator("#log")).to_contain_text("step 4")
        fits(page, 360)
        for path in ["/", "/new", "/inbox?state=", "/submissions", "/login"]:
            page.goto(URL + path)
            fits(page, 360)
        shots(page, "sign-in")

    with proves("signing out closes the pages"):
        page.goto(URL)
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Token of this worker")).to_be_visible()
        page.goto(f"{URL}/run/1")
        expect(page).to_have_url(re.compile("/login"))

    with proves("no request leaves the worker's origin"):
        foreign = {url for url in browser.requests if not url.startswith(URL + "/")}
        assert not foreign and len(browser.requests) > 50, foreign

    with proves("the console tells no error and no violation of the policy"):
        assert not browser.complaints, browser.complaints


def sign_in_without_scripts(page: Page) -> None:
    page.get_by_label("Token of this worker").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#summary")).to_be_visible()


def tab_to(page: Page, selector: str) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", f"{selector} has focus and does not show it"
            return
    raise AssertionError(f"no Tab leads to {selector}")


# What has to be seen at once, whatever the width.
SEEN = {
    "list": ["h1", ".card"],
    "form": ["h1", "#files"],
    "run": ["h1", "#summary .badge"],
    "streams": ["h1", "#summary .badge", "#log .stderr"],
    "live": ["h1", "#cancel", "#log"],
    "refused": ["#cpus-error"],
    "sign-in": ["#token"],
    "inbox": ["h1", ".entry"],
    "decided": ["#told"],
    "review": ["h1", "#summary .badge"],
    "submissions": ["h1", ".entry"],
}


def shots(page: Page, name: str) -> None:
    """Pictures at both widths, by day and by night; the page has its old width afterwards."""
    for width, height in [(390, 844), (1280, 900)]:
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ["light", "dark"]:
            page.emulate_media(color_scheme=scheme)
            for selector in SEEN[name]:
                if name in ("refused", "decided"):  # where the focus is, and the width changes beneath it
                    page.locator(selector).scroll_into_view_if_needed()
                expect(page.locator(selector).first).to_be_in_viewport()
            path = SHOTS / f"{name}-{width}-{scheme}.png"
            picture = page.screenshot(path=path)
            assert len(picture) > 10_000, f"{path.name} has {len(picture)} bytes: it is blank"
        fits(page, width)
    page.emulate_media(color_scheme="light")


def fits(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    wide = page.evaluate("() => document.documentElement.scrollWidth")
    assert wide <= width, f"{page.url} is {wide} px wide in {width}"


with sync_playwright() as playwright:
    browser = Browser(playwright)
    checks(browser)
    browser.chromium.close()
sys.exit(1 if failed else 0)
