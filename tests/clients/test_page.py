"""The page at / in a real browser: Debian's Chromium, driven by selenium."""

import json
import os
import shutil
import tempfile
import time
import unittest

from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from support import Server, server

WAIT_SECONDS = 60


def open_browser() -> webdriver.Chrome:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        if os.environ.get("LLMLUA_NO_BROWSER"):
            raise unittest.SkipTest("no Chromium on this system")
        raise RuntimeError("the page is tested in Chromium; scripts/dev/setup.sh installs chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--window-size=1280,900"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


class Page(unittest.TestCase):
    """What the tests of the page share."""

    @classmethod
    def setUpClass(cls):
        cls.browser = open_browser()
        cls.addClassCleanup(cls.browser.quit)

    def setUp(self):
        self.open(server())

    def open(self, one: Server):
        self.browser.get(one.url + "/")
        self.browser.execute_script("localStorage.clear(); sessionStorage.clear()")
        self.browser.get_log("browser")
        self.browser.get(one.url + "/")

    def find(self, selector: str):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector: str) -> list:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, condition, message=""):
        return WebDriverWait(self.browser, WAIT_SECONDS, 0.02).until(lambda _: condition(), message)

    def text(self, selector: str) -> str:
        return self.browser.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def set(self, name: str, value: str):
        field = self.find(f"#params [name={name}]")
        field.clear()
        field.send_keys(value)

    def send(self, text: str):
        self.find("#prompt").send_keys(text + Keys.ENTER)

    def wait_for_end(self):
        self.wait(lambda: self.find(".message.assistant") and not self.find_all(".message.live"), "the reply ends")

    def assert_quiet(self):
        """Nothing on the console: no error of a script, no refused resource, no violated policy."""
        self.assertEqual(self.browser.get_log("browser"), [])


class Chat(Page):
    def test_a_streamed_reply(self):
        self.set("temperature", "0")
        self.set("max_tokens", "200")
        self.send("Write a long story about a lighthouse.")
        self.wait(lambda: self.text(".message.live .text"))
        early = self.text(".message.assistant .text")
        self.wait(lambda: len(self.text(".message.live .text")) > len(early), "more text comes while it streams")
        self.wait_for_end()
        self.assertTrue(self.text(".message.assistant .text").startswith(early))
        self.assertIn("200 tokens", self.text(".message.assistant .meta"))
        self.assertIn("finished: length", self.text(".message.assistant .meta"))
        self.assertEqual(self.text(".message.user .text"), "Write a long story about a lighthouse.")
        self.assert_quiet()

    def test_the_text_is_what_the_api_says(self):
        body = {"messages": [{"role": "system", "content": "You speak French."},
                             {"role": "user", "content": "Count to five, with <b>tags</b> 😀."}],
                "max_tokens": 40, "temperature": 0, "logprobs": True, "top_logprobs": 5}
        reply = json.loads(server().request("POST", "/v1/chat/completions", body)[2])["choices"][0]["message"]["content"]
        self.set("system", "You speak French.")
        self.set("temperature", "0")
        self.set("max_tokens", "40")
        self.browser.execute_script("document.querySelector('#prompt').value = arguments[0]",
                                    body["messages"][1]["content"])
        self.find("#send").click()
        self.wait_for_end()
        self.assertEqual(self.text(".message.assistant .text"), reply)
        self.assertEqual(self.text(".message.user .text"), body["messages"][1]["content"])
        self.assertEqual(self.find_all(".message .text b"), [])
        self.assert_quiet()

    def test_stopping_a_reply(self):
        self.send("Write a very long story about the sea.")
        self.wait(lambda: self.text(".message.live .text"))
        self.find("#stop-reply").click()
        self.wait_for_end()
        self.assertEqual(self.text(".message.assistant .meta"), "stopped")
        self.assertEqual(server().wait_until_idle()["kv_blocks_used"], 0)
        self.assertTrue(self.find("#send").is_enabled())
        self.assert_quiet()

    def test_parameters(self):
        """They reach the model, and are there again when the page is loaded anew."""
        for name, value in [("temperature", "1.5"), ("seed", "7"), ("max_tokens", "12"), ("top_k", "50"),
                            ("top_p", "0.9"), ("min_p", "0.01"), ("stop", "zzz")]:
            self.set(name, value)
        self.send("Say something.")
        self.wait_for_end()
        first = self.text(".message.assistant .text")
        self.browser.refresh()
        self.assertEqual(self.find("#params [name=seed]").get_attribute("value"), "7")
        self.send("Say something.")
        self.wait_for_end()
        self.assertEqual(self.text(".message.assistant .text"), first)
        self.find("#retry").click()
        self.wait(lambda: len(self.find_all(".message.assistant .meta:not(:empty)")) == 1)
        self.assertEqual(self.text(".message.assistant .text"), first)
        self.set("stop", first.split()[1])
        self.find("#new").click()
        self.assertEqual(self.find_all(".message"), [])
        self.send("Say something.")
        self.wait_for_end()
        self.assertNotIn(first.split()[1], self.text(".message.assistant .text"))
        self.assertIn("finished: stop", self.text(".message.assistant .meta"))
        self.find("#reset").click()
        self.wait(lambda: self.find("#params [name=seed]").get_attribute("value") == "")
        self.assert_quiet()

    def test_what_the_server_refuses_is_said(self):
        self.set("max_tokens", "1")
        self.browser.execute_script("document.querySelector('#prompt').value = 'long '.repeat(5000)")
        self.find("#send").click()
        self.wait(lambda: self.find_all(".message .error"))
        self.assertIn("2048", self.text(".message .error"))
        self.assertEqual(self.find(".message.assistant .meta").get_attribute("role"), "alert")

    def test_probabilities(self):
        self.set("temperature", "0")
        self.set("max_tokens", "10")
        self.send("What is the capital of France?")
        self.wait_for_end()
        tokens = self.find_all(".message.assistant .token")
        self.assertEqual(len(tokens), 10)
        ActionChains(self.browser).move_to_element(tokens[2]).perform()
        self.wait(lambda: self.find("#tip").is_displayed())
        rows = self.find_all("#tip .row")
        self.assertEqual(len(rows), 5)
        shares = [float(row.find_element(By.CSS_SELECTOR, ".share").text.rstrip(" %")) for row in rows]
        self.assertEqual(shares, sorted(shares, reverse=True))
        self.assertLessEqual(sum(shares), 100.5)
        own = self.find("#tip .row.own .word").text
        self.assertEqual(own.replace("␣", " "), tokens[2].get_attribute("textContent"))
        ActionChains(self.browser).move_to_element(self.find("#prompt")).perform()
        self.wait(lambda: not self.find("#tip").is_displayed())
        self.find("#params [name=shade]").click()
        self.assertIn("shade", self.find("#log").get_attribute("class"))
        self.assert_quiet()


class Keyboard(Page):
    def press(self, *keys):
        ActionChains(self.browser).send_keys(*keys).perform()

    def focus(self):
        return self.browser.switch_to.active_element

    def tab_to(self, condition):
        for _ in range(60):
            if condition(self.focus()):
                return self.focus()
            self.press(Keys.TAB)
        self.fail("the tab key does not get there")

    def test_all_by_keys(self):
        self.assertEqual(self.focus().get_attribute("id"), "prompt")
        self.tab_to(lambda at: at.get_attribute("name") == "max_tokens")
        self.press("30")
        self.tab_to(lambda at: at.get_attribute("id") == "prompt")
        self.press("One")
        ActionChains(self.browser).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
        self.press("two", Keys.ENTER)
        self.wait_for_end()
        self.assertEqual(self.text(".message.user .text"), "One\ntwo")
        first = self.tab_to(lambda at: "token" in (at.get_attribute("class") or "").split())
        self.assertTrue(self.find("#tip").is_displayed())
        self.press(Keys.ARROW_RIGHT)
        self.assertNotEqual(self.focus(), first)
        self.assertIn("%", self.focus().get_attribute("aria-label"))
        self.press(Keys.ESCAPE)
        self.wait(lambda: not self.find("#tip").is_displayed())
        self.press(Keys.HOME)
        self.assertEqual(self.focus(), first)
        self.assert_quiet()

    def test_escape_stops(self):
        self.press("Write a very long story about the sea.", Keys.ENTER)
        self.wait(lambda: self.text(".message.live .text"))
        self.press(Keys.ESCAPE)
        self.wait_for_end()
        self.assertEqual(self.text(".message.assistant .meta"), "stopped")
        self.assert_quiet()

    def test_everything_has_a_name(self):
        for one in self.find_all("button, input, textarea, canvas, summary, dialog, [role]"):
            if one.get_attribute("role") not in ("tooltip", "status") and one.is_displayed():
                self.assertTrue(one.accessible_name, one.get_attribute("outerHTML"))
        self.assertEqual(self.find("html").get_attribute("lang"), "en")


class State(Page):
    def test_what_the_engine_does(self):
        self.wait(lambda: self.text("#connection") == "connected")
        self.assertEqual(self.text("#model"), "smol")
        self.wait(lambda: self.text("#batch-text") == "0 · 0")
        self.send("Write a very long story about the sea.")
        self.wait(lambda: self.text("#batch-text") == "1 · 0", "the request is seen running")
        self.wait(lambda: not self.text("#kv-text").startswith("0 of"), "its pages are seen")
        coloured = """
            const canvas = document.querySelector('#kv');
            const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
            copy.drawImage(canvas, 0, 0);
            const pixels = copy.getImageData(0, 0, canvas.width, canvas.height).data;
            for (let i = 0; i < pixels.length; i += 4) {
              const [r, g, b, a] = pixels.slice(i, i + 4);
              if (a === 255 && Math.max(r, g, b) - Math.min(r, g, b) > 90) return true;
            }
            return false"""
        self.wait(lambda: self.browser.execute_script(coloured), "they are drawn in their request's colour")
        self.wait(lambda: int(self.text("#rate-text").split(" · ")[0]) > 0, "its tokens are counted")
        self.find("#stop-reply").click()
        self.wait(lambda: self.text("#batch-text") == "0 · 0")
        self.wait(lambda: self.text("#kv-text").startswith("0 of"))
        self.assertRegex(self.text("#kv-note"), r"0 in use, coloured by request; [1-9]\d* kept for prefixes; \d+ free")
        self.assert_quiet()

    def test_dark_and_light(self):
        colors = []
        for scheme in ["light", "dark"]:
            self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {
                "features": [{"name": "prefers-color-scheme", "value": scheme}]})
            colors.append([sum(int(part) for part in color.split("(")[1].rstrip(")").split(",")[:3]) for color in
                           self.browser.execute_script("const s = getComputedStyle(document.body);"
                                                       "return [s.backgroundColor, s.color]")])
        (light_back, light_text), (dark_back, dark_text) = colors
        self.assertGreater(light_back, light_text)
        self.assertGreater(dark_text, dark_back)

    def test_a_server_that_goes_away(self):
        own = Server()
        self.open(own)
        self.wait(lambda: self.text("#connection") == "connected")
        own.stop()
        self.wait(lambda: self.text("#connection") == "not connected")


class Locked(Page):
    def setUp(self):
        self.server = server("--api-key", "open-sesame")
        self.open(self.server)

    def enter(self, key: str):
        self.wait(lambda: self.find("#ask").is_displayed())
        self.find("#ask-key").send_keys(key + Keys.ENTER)

    def test_the_key_is_asked_for(self):
        self.enter("wrong")
        self.wait(lambda: "does not know" in self.text("#ask-why"))
        self.enter("open-sesame")
        self.wait(lambda: self.text("#connection") == "connected")
        self.set("max_tokens", "5")
        self.send("Hi!")
        self.wait_for_end()
        self.assertIn("5 tokens", self.text(".message.assistant .meta"))
        self.browser.refresh()
        self.wait(lambda: self.text("#connection") == "connected")
        self.assertFalse(self.find("#ask").is_displayed())
        self.assertEqual(self.browser.execute_script("return Object.values(sessionStorage)"), ["open-sesame"])
        self.assertNotIn("open-sesame", self.browser.execute_script("return JSON.stringify(localStorage)"))

    def test_declining(self):
        self.wait(lambda: self.find("#ask").is_displayed())
        ActionChains(self.browser).send_keys(Keys.ESCAPE).perform()
        self.wait(lambda: self.text("#connection") == "no key")
        self.find("#key").click()
        self.enter("open-sesame")
        self.wait(lambda: self.text("#connection") == "connected")

    def test_the_page_is_open_and_nothing_else(self):
        for path in ["/", "/page.css", "/page.js"]:
            self.assertEqual(self.server.request("GET", path)[0], 200, path)
        for path in ["/admin/state", "/admin/scripts", "/page.lua", "/page/page.js", "/index.html"]:
            self.assertEqual(self.server.request("GET", path)[0], 401, path)


SCRIPT = """
local llm, openai = require "llm", require "llm.openai"
local opts = llm.options(arg, openai.options)
local engine = llm.engine(opts)
local server = llm.server(openai.server_options(opts))
openai.protect(server, opts)
server:post("/v1/chat/completions", openai.chat(engine, opts))
server:get("/hello", function() return "one" end)
openai.page(server, engine, opts)
server:listen()
io.stderr:write(("Serving %s at %s\\n"):format(engine.model, server:url()))
server:run()
"""


class Scripts(Page):
    """Generations and the editor, over a script in a file."""

    KEY = {"Authorization": "Bearer k"}

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = self.folder.name + "/mine.lua"
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(SCRIPT)
        self.server = Server("--api-key", "k", script=self.path)
        self.addCleanup(self.server.stop)
        self.open(self.server)
        self.wait(lambda: self.find("#ask").is_displayed())
        self.find("#ask-key").send_keys("k" + Keys.ENTER)
        self.wait(lambda: self.find("#scripts").is_displayed())
        self.find("#scripts summary").click()
        self.wait(lambda: self.find_all("#generations tbody tr"))
        self.browser.get_log("browser")

    def hello(self) -> bytes:
        return self.server.request("GET", "/hello", headers=self.KEY)[2]

    def edit(self, text: str):
        self.find("#edit").click()
        self.wait(lambda: "openai" in self.find("#code").get_attribute("value"))
        self.browser.execute_script("document.querySelector('#code').value = arguments[0]", text)

    def test_reload_and_roll_back(self):
        self.find("#reload").click()
        self.wait(lambda: self.text("#scripts-note") == "Generation 2 serves.")
        self.wait(lambda: self.text("tr.active td") == "2, active")
        self.find("#rollback").click()
        self.wait(lambda: self.text("tr.active td") == "1, active")
        self.assert_quiet()

    def test_what_others_load_is_seen(self):
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(SCRIPT.replace('"one"', '"four"'))
        self.wait(lambda: self.text("tr.active td") == "2, active")
        self.assertEqual(self.hello(), b"four")
        self.assert_quiet()

    def test_saving_loads(self):
        self.edit(SCRIPT.replace('"one"', '"two"'))
        ActionChains(self.browser).click(self.find("#code")).key_down(Keys.CONTROL).send_keys("s").key_up(
            Keys.CONTROL).perform()
        self.wait(lambda: "generation 2 serves" in self.text("#editor-note"))
        self.assertEqual(self.hello(), b"two")
        with open(self.path, encoding="utf-8") as file:
            self.assertEqual(file.read(), SCRIPT.replace('"one"', '"two"'))
        self.find("#close-editor").click()
        self.assertFalse(self.find("#editor").is_displayed())
        self.assert_quiet()

    def test_a_mistake_is_shown(self):
        self.edit(SCRIPT.replace("llm.engine(opts)", "llm.engine(opts))"))
        self.find("#save").click()
        self.wait(lambda: "the old script goes on" in self.text("#editor-note"))
        self.assertIn("mine.lua:4", self.text("#editor-note"))
        self.assertEqual(self.hello(), b"one")
        chosen = self.browser.execute_script("const c = document.querySelector('#code');"
                                             "return c.value.slice(c.selectionStart, c.selectionEnd)")
        self.assertEqual(chosen, "local engine = llm.engine(opts))")

    def test_a_change_of_somebody_else_is_kept(self):
        self.edit(SCRIPT.replace('"one"', '"three"'))
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("-- mine\n")
        self.find("#save").click()
        self.wait(lambda: "changed meanwhile" in self.text("#editor-note"))
        with open(self.path, encoding="utf-8") as file:
            self.assertEqual(file.read(), SCRIPT + "-- mine\n")

    def test_only_files_of_the_script(self):
        for path in ["/etc/passwd", self.path + "/../mine.lua", "", self.path + ".new"]:
            status = self.server.request("GET", "/admin/file?path=" + path, headers=self.KEY)[0]
            self.assertEqual(status, 404, path)
            self.assertEqual(self.server.request("PUT", "/admin/file?path=" + path, b"x", self.KEY)[0], 404)
        self.assertEqual(self.server.request("GET", "/admin/file?path=" + self.path)[0], 401)
        self.assertEqual(self.server.request("PUT", "/admin/file?path=" + self.path, b"x", self.KEY)[0], 428)
        self.assertEqual(server().request("GET", "/admin/file?path=serve.lua")[0], 409)


class Files(unittest.TestCase):
    def test_headers(self):
        for path, kind in [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")]:
            status, headers, body = server().request("GET", path)
            self.assertEqual((status, headers["content-type"]), (200, kind + "; charset=utf-8"))
            self.assertIn("default-src 'none'", headers["content-security-policy"])
            self.assertEqual(headers["cache-control"], "no-cache")
            self.assertTrue(body)
            status, again, body = server().request("GET", path, headers={"If-None-Match": headers["etag"]})
            self.assertEqual((status, again["etag"], body), (304, headers["etag"], b""))
            self.assertEqual(server().request("GET", path, headers={"If-None-Match": '"x"'})[0], 200)

    def test_state(self):
        state = json.loads(server().request("GET", "/admin/state")[2])
        self.assertEqual((state["model"], state["scripts"]), ("smol", False))
        self.assertEqual(server().wait_until_idle()["kv_blocks_used"], 0)
        self.assertGreater(state["kv_pages"], 0)
