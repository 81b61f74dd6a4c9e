"""The report as a person opens it from disk: headless Chromium, wide and narrow, light and dark."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from pipeline.report.config import ReportConfig
from pipeline.report.report import write_report
from pipeline.report.site import PAGES
from tests.pipeline.report.test_report import HOSTILE
from tests.progress import silently

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver")
SCREENS = {"wide": (1440, 900), "narrow": (390, 844)}
PLAYERS = (
    "return [...document.querySelectorAll('audio')].map((audio) => [audio.readyState, audio.duration, audio.error])"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(switch)
    options.add_argument("--autoplay-policy=no-user-gesture-required")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def hostile_report(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run whose names are made to break out of pages."""
    folder = tmp_path_factory.mktemp("hostile")
    run = str(make_run(HOSTILE))
    write_report(run, str(folder), [], f"{run}/speech", ReportConfig(clips=2), silently)
    return folder


@pytest.fixture(scope="module")
def written_report(written_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of a run of speech and text whose words are made to do the same."""
    folder = tmp_path_factory.mktemp("written")
    write_report(str(written_run), str(folder), [], f"{written_run}/speech", ReportConfig(clips=2), silently)
    return folder


def show(browser: Chrome, page: Path, screen: str = "wide", scheme: str = "light") -> None:
    width, height = SCREENS[screen]
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())


def wait_for(browser: Chrome, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(script), f"never true: {script}")


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", [name for name, _ in PAGES])
def test_every_page_renders_without_a_complaint(browser, hostile_report, page, screen, scheme):
    _look_at(browser, hostile_report, page, screen, scheme)


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["index", "units", "text", "listening"])
def test_so_do_those_of_speech_and_text(browser, written_report, page, screen, scheme):
    _look_at(browser, written_report, page, screen, scheme)
    if page == "text":
        widths = browser.execute_script(
            "return [...document.querySelectorAll('.spans > rect')].map((rect) => rect.getBoundingClientRect().width)"
        )
        assert len(widths) > 2 and min(widths) > 1, "a span cannot be seen"


def _look_at(browser: Chrome, report: Path, page: str, screen: str, scheme: str) -> None:
    show(browser, report / f"{page}.html", screen, scheme)
    title = dict(PAGES)[page]
    assert browser.title.startswith(title), "a script from a name has run"
    assert browser.find_element("tag name", "h1").text == title
    overflow = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0, f"the page is {overflow} pixels wider than the screen"
    is_blank = """
        return [...document.querySelectorAll('figure.chart canvas')].filter((canvas) =>
            !canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)).length"""
    assert browser.execute_script(is_blank) == 0, "a chart is empty"
    assert browser.get_log("browser") == []


def test_players_and_pictures_load(browser, hostile_report):
    for page in ("listening", "packing"):
        show(browser, hostile_report / f"{page}.html")
        wait_for(
            browser, "return [...document.querySelectorAll('audio')].every((audio) => audio.readyState || audio.error)"
        )
        players = browser.execute_script(PLAYERS)
        assert players
        assert all(error is None and seconds > 1 for _, seconds, error in players), players
        pictures = "[...document.querySelectorAll('img')]"
        browser.execute_script(f"{pictures}.forEach((image) => {{ image.loading = 'eager'; }})")
        wait_for(browser, f"return {pictures}.every((image) => image.complete)")
        assert browser.execute_script(f"return {pictures}.every((image) => image.naturalWidth > 1)")


def test_one_clip_plays_at_a_time_and_a_click_on_its_picture_goes_there(browser, hostile_report):
    show(browser, hostile_report / "listening.html")
    strips = browser.find_elements("css selector", ".strip.seekable")
    for strip in strips[:2]:
        browser.execute_script("arguments[0].scrollIntoView({ block: 'center' })", strip)
        strip.click()  # its middle
        wait_for(browser, "return [...document.querySelectorAll('audio')].some((audio) => audio.currentTime > 0)")
    wait_for(browser, "return [...document.querySelectorAll('audio')].filter((audio) => !audio.paused).length <= 1")
    places = browser.execute_script(
        "return [...document.querySelectorAll('audio')].map((a) => a.currentTime / a.duration)"
    )
    assert sum(place >= 0.4 for place in places) == 2, places


def test_keys_reach_the_menu_the_tables_and_the_players(browser, hostile_report):
    from selenium.webdriver import ActionChains, Keys

    show(browser, hostile_report / "listening.html")
    reached = []
    for _ in range(60):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        element = browser.switch_to.active_element
        reached.append(element.get_attribute("class") if element.tag_name == "a" and not reached else element.tag_name)
    assert reached[0] == "skip", "the first key does not offer to skip the menu"
    assert {"a", "audio", "summary"} <= set(reached)
    browser.find_element("css selector", "summary").send_keys(Keys.ENTER)
    assert browser.find_element("css selector", "details").get_attribute("open")
