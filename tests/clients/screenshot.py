"""Makes docs/page.png:  .cache/clients/bin/python tests/clients/screenshot.py, with LLMLUA and LLMLUA_MODEL set.

A chat with a token's probabilities open, while other requests run."""

import json
import pathlib
import threading
import time

from selenium.webdriver import ActionChains

import support
import test_page

OTHERS = ["Once upon a time", "The sea", "def main():", "In the year 1900,", "A list of birds:", "My favourite food"]


def main() -> None:
    page = test_page.Page()
    page.browser = test_page.open_browser()
    page.browser.set_window_size(1280, 1000)
    server = support.Server("--kv-cache-memory", "256MiB")
    page.open(server)

    def run(prompt: str, n: int):
        server.request("POST", "/v1/completions", {"prompt": prompt, "max_tokens": n, "ignore_eos": True})

    for i, prompt in enumerate(OTHERS):
        threading.Thread(target=run, args=(prompt, 300 + 150 * i), daemon=True).start()
        time.sleep(0.8)
    page.set("temperature", "0")
    page.set("max_tokens", "60")
    page.browser.execute_script("document.querySelector('#params').closest('details').open = false")
    page.send("Why is the sky blue?")
    page.wait_for_end()
    tokens = page.find_all(".message.assistant .token")
    ActionChains(page.browser).move_to_element(tokens[len(tokens) // 3]).perform()
    page.wait(lambda: page.find("#tip").is_displayed())
    page.browser.save_screenshot(str(pathlib.Path(__file__).parents[2] / "docs/page.png"))
    print(json.dumps(server.load()))
    page.browser.quit()
    server.stop()


main()
