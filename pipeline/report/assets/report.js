"use strict";
// Charts: Chart.js draws what the pages hold as JSON. Clips: one plays at a time, with a line where it is.

const PALETTE = ["#3b7dd8", "#e08a3c", "#4aa37a", "#b565a7", "#c9a227", "#5aa9c7", "#d1605e", "#8c8c94", "#7d6bd0", "#9c755f", "#76b041"];
const KEPT = "#4aa37a";
const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3]];
const KNOWN = JSON.parse(document.body.dataset.corpora);
const dark = matchMedia("(prefers-color-scheme: dark)");
const charts = [];

const numbers = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const told = (value) => (Math.abs(value) >= 1e5 ? compact : numbers).format(value);
const tick = (value) => (value !== 0 && Math.abs(value) < 1e-4 ? value.toExponential(0) : told(value));

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// A corpus has the same colour in all charts.
function shadeOf(name, place, isFlow) {
  if (name === "kept") return KEPT;
  if (name === "mean") return colour("--text");
  const known = KNOWN.indexOf(name);
  return PALETTE[(known >= 0 ? known : isFlow ? place + 5 : place) % PALETTE.length];
}

function datasets(spec) {
  return spec.series.map((series, place) => {
    const shade = shadeOf(series.subject || series.name, place, spec.series[0].name === "kept");
    if (spec.kind === "bars") return { label: series.name, data: series.values, backgroundColor: shade, barPercentage: 1, maxBarThickness: spec.is_sideways ? 30 : 90, categoryPercentage: spec.is_sideways ? 0.7 : 0.92 };
    const points = series.values.map((y, index) => ({ x: series.places[index], y }));
    if (spec.kind === "points") return { label: series.name, data: points, backgroundColor: series.colours, borderColor: "transparent", pointRadius: 5, pointHoverRadius: 8 };
    return { label: series.name, data: points, borderColor: shade, backgroundColor: shade, borderWidth: 2, borderDash: DASHES[series.run % DASHES.length], pointRadius: points.length > 40 ? 0 : 2, tension: 0 };
  });
}

function axis(title, isCategory) {
  const soft = colour("--soft");
  return {
    title: { display: Boolean(title), text: title, color: soft },
    ticks: { color: soft, maxRotation: isCategory ? 45 : 0, autoSkipPadding: 10, ...(isCategory ? {} : { callback: tick }) },
    grid: { color: isCategory ? "transparent" : colour("--line") },
    border: { display: false },
  };
}

function options(spec) {
  const isBars = spec.kind === "bars";
  const x = axis(spec.x, isBars && !spec.is_sideways);
  const y = axis(spec.y, isBars && spec.is_sideways);
  if (isBars && spec.is_sideways) y.ticks.autoSkip = spec.labels.length > 14; // there is room for each stage's name
  if (!isBars) x.type = "linear";
  if (spec.has_log_y) Object.assign(y, { type: "logarithmic", ticks: { ...y.ticks, maxTicksLimit: 8 } });
  if (isBars) { x.stacked = spec.is_stacked; y.stacked = spec.is_stacked; }
  else if (spec.kind === "lines") x.min = Math.min(...spec.series.map((series) => series.places[0]));
  const label = (item) => {
    const series = spec.series[item.datasetIndex];
    if (series.texts.length) return series.texts[item.dataIndex];
    const value = told(spec.is_sideways ? item.parsed.x : item.parsed.y);
    return spec.series.length > 1 ? series.name + ": " + value : value;
  };
  return {
    responsive: true,
    maintainAspectRatio: false,
    animation: false,
    indexAxis: spec.is_sideways ? "y" : "x",
    interaction: spec.kind === "points" ? { mode: "nearest", intersect: true } : { mode: "index", axis: spec.is_sideways ? "y" : "x", intersect: false },
    scales: { x, y },
    plugins: {
      legend: { display: spec.series.length > 1, position: "bottom", labels: { color: colour("--text"), boxHeight: 12, ...(spec.kind === "lines" ? { usePointStyle: true, pointStyle: "line" } : { boxWidth: 12 }) } },
      tooltip: { callbacks: { label }, filter: (item) => spec.kind !== "bars" || !spec.is_stacked || item.raw !== 0 },
    },
  };
}

function draw() {
  while (charts.length) charts.pop().destroy();
  const types = { bars: "bar", lines: "line", points: "scatter" };
  for (const figure of document.querySelectorAll("figure.chart")) {
    const spec = JSON.parse(figure.querySelector("script").textContent);
    const data = { labels: spec.labels, datasets: datasets(spec) };
    charts.push(new Chart(figure.querySelector("canvas"), { type: types[spec.kind], data, options: options(spec) }));
  }
}

function follow(clip) {
  const audio = clip.querySelector("audio");
  const strip = clip.querySelector(".strip");
  if (!audio) return;
  audio.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
  });
  if (!strip) return;
  const head = strip.querySelector(".head");
  const line = head.querySelector("line");
  const duration = Number(clip.dataset.duration);
  const place = () => {
    const share = Math.min(1, audio.currentTime / duration);
    line.setAttribute("x1", share);
    line.setAttribute("x2", share);
    head.classList.toggle("on", audio.currentTime > 0);
    if (!audio.paused && !audio.ended) requestAnimationFrame(place);
  };
  for (const event of ["play", "seeked", "timeupdate", "ended"]) audio.addEventListener(event, place);
  strip.classList.add("seekable");
  strip.addEventListener("click", (event) => {
    const box = strip.getBoundingClientRect();
    audio.currentTime = ((event.clientX - box.left) / box.width) * duration;
    audio.play();
  });
}

draw();
dark.addEventListener("change", draw);
for (const clip of document.querySelectorAll(".clip")) follow(clip);
// Not by scrollIntoView, from which on the first Tab would go to the links behind this one.
const menu = document.querySelector("header nav");
const here = menu.querySelector("[aria-current]");
menu.scrollLeft = here.offsetLeft - menu.offsetLeft - (menu.clientWidth - here.offsetWidth) / 2;
