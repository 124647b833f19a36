"use strict";
// Draws the figures of #data with plotly; in a live page it fetches new data and draws again.
const root = document.documentElement;
let data = JSON.parse(document.getElementById("data").textContent);
// Okabe and Ito's colours, told apart by colour-blind readers; brighter ones on dark pages.
const COLOURS = {
  light: ["#0072B2", "#D55E00", "#007A5A", "#A8467F", "#8A6500", "#3B3B3B", "#5B4FC4", "#6e7781"],
  dark: ["#56B4E9", "#F0954A", "#35C79C", "#E59ACB", "#F0E442", "#DDDDDD", "#B0A8FF", "#9aa4af"],
};
const DASHES = ["solid", "dash", "dashdot", "longdash", "longdashdot", "dot"];
const SYMBOLS = ["circle", "diamond", "square", "cross", "x"];
const byName = () => Object.fromEntries(data.figures.map((f) => [f.name, f]));
const dark = () => root.dataset.theme === "dark";
const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();
const colour = (k) => COLOURS[dark() ? "dark" : "light"][k % 8];
const faded = (hex) => hex + "33";
const narrow = () => window.innerWidth < 640;

function element(tag, options = {}, ...children) {
  const made = Object.assign(document.createElement(tag), options);
  made.append(...children);
  return made;
}

// What is chosen at a figure: its key among the views, and the colour of ways.
function chosen(box) {
  const parts = [...box.querySelectorAll("select[data-part]")].map((s) => s.value);
  const by = box.querySelector("select[data-colour]");
  return { key: parts.join("/"), by: by ? by.value : "time" };
}

function view(figure, key) {
  if (figure.views[key]) return figure.views[key];
  return figure.choices.length ? null : figure.views[Object.keys(figure.views)[0]];
}

function lines(figure, curves) {
  const traces = [];
  curves.forEach((c, k) => {
    const shade = c.kind === "chance" ? colour(7) : colour(c.colour);
    if (c.low) {
      const band = { x: c.x, mode: "lines", line: { width: 0, color: shade }, hoverinfo: "skip",
        showlegend: false, legendgroup: k };
      traces.push({ ...band, y: c.low, meta: "low" });
      traces.push({ ...band, y: c.high, fill: "tonexty", fillcolor: faded(shade), meta: "high" });
    }
    const few = c.x.length < 40;
    const plain = c.kind === "chance" || !few ? "lines" : "lines+markers";
    const mode = c.kind === "points" ? "markers" : plain;
    traces.push({ x: c.x, y: c.y, name: c.label, mode, legendgroup: k, meta: "curve",
      text: c.text || undefined, hovertemplate: (c.text ? "%{text}<br>" : "%{x}<br>") + "%{y:.5g}",
      line: { color: shade, width: 2, dash: c.kind === "chance" ? "dot" : DASHES[c.colour % 6] },
      marker: { color: shade, size: c.kind === "points" ? 10 : 6,
        symbol: c.kind === "points" ? "x" : SYMBOLS[c.colour % 5] } });
  });
  return traces;
}

function ways(curves, by) {
  const values = curves.flatMap((c) => c.more[by]).filter((v) => v !== null);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return curves.map((c, k) => {
    const shade = colour(c.colour);
    const deep = "z" in c.more;
    return { x: c.x, y: c.y, z: deep ? c.more.z : undefined, type: deep ? "scatter3d" : "scatter",
      name: c.label === "reward" ? "reward model" : c.label, mode: "lines+markers", text: c.text,
      meta: "curve", hovertemplate: "%{text}<br>" + by + " %{marker.color:.4g}",
      line: { color: shade, width: deep ? 3 : 1.5 },
      marker: { symbol: SYMBOLS[k], size: deep ? 5 : c.x.map((_, i) => (i ? 10 : 16)),
        color: c.more[by].map((v) => (v === null ? low : v)), cmin: low, cmax: high,
        colorscale: "Cividis", line: { color: shade, width: 1 }, showscale: k === 0,
        colorbar: { title: { text: by, side: "top" }, thickness: 12, len: 0.9, outlinewidth: 0 } } };
  });
}

function layout(figure, curves, title) {
  const deep = figure.kind === "ways" && curves.some((c) => "z" in c.more);
  const ys = curves.flatMap((c) => c.y), xs = curves.flatMap((c) => c.x);
  const span = Math.max(...ys) / Math.min(...ys), first = Math.min(...xs), last = Math.max(...xs);
  const text = style("--text"), line = style("--line");
  const axis = (title) => ({ title: { text: title }, gridcolor: line, zerolinecolor: line,
    linecolor: line, automargin: true });
  const made = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
    font: { color: text, family: "system-ui, sans-serif", size: 13 }, hovermode: "closest",
    margin: { l: 55, r: 15, t: 46, b: 45 }, showlegend: curves.length > 1,
    hoverlabel: { bgcolor: style("--card"), font: { color: text }, bordercolor: line },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: style("--soft"), activecolor: text },
    legend: { orientation: "h", y: figure.marks.length ? 1.09 : 1.02, yanchor: "bottom", x: 0 } };
  if (deep) {
    const far = (title) => ({ ...axis(title), automargin: undefined, backgroundcolor: "rgba(0,0,0,0)" });
    made.scene = { xaxis: far("first"), yaxis: far("second"), zaxis: far("third") };
    return made;
  }
  made.xaxis = axis(title);
  made.yaxis = { ...axis(figure.y), type: figure.log ? "log" : "linear", exponentformat: "power" };
  if (figure.log) made.yaxis.dtick = span > 100 ? 1 : "D2"; // decades, or 1, 2, 5 where they are few
  else if (span === 1) made.yaxis.range = [0, 1.5 * ys[0]]; // else it is from -1 to 1
  if (title.startsWith("snapshots") && last - first < 13) made.xaxis.dtick = 1; // whole ones
  made.shapes = figure.marks.map(([x]) => ({ type: "line", x0: x, x1: x, yref: "paper", y0: 0,
    y1: 1, line: { color: style("--soft"), width: 1, dash: "dot" } }));
  made.annotations = figure.marks.length > 6 ? [] : figure.marks.map(([x, name]) => ({ x, y: 1,
    yref: "paper", yanchor: "bottom", xanchor: "left", text: name.replace(/[<>&]/g, ""),
    showarrow: false, font: { size: 11, color: style("--soft") } }));
  return made;
}

function table(figure, curves) {
  const head = ["", figure.x, figure.y, "low", "high", ""];
  const body = element("tbody");
  for (const c of curves) {
    for (let i = 0; i < c.x.length && body.rows.length < 2000; i++) {
      const cells = [c.label, c.x[i], c.y[i], c.low ? c.low[i] : "", c.high ? c.high[i] : "",
        c.text ? c.text[i] : ""];
      body.append(element("tr", {}, ...cells.map((v) =>
        element("td", { className: typeof v === "number" ? "n" : "", textContent: v }))));
    }
  }
  const row = element("tr", {}, ...head.map((h) => element("th", { scope: "col", textContent: h })));
  return element("table", {}, element("thead", {}, row), body);
}

async function draw(box) {
  const figure = byName()[box.dataset.figure];
  const empty = figure.missing !== "";
  box.querySelector(".missing").textContent = figure.missing;
  box.querySelector(".missing").hidden = !empty;
  box.querySelector(".drawn").hidden = empty;
  box.querySelector(".seen").textContent = figure.seen;
  if (empty) return;
  const plot = box.querySelector(".plot");
  const { key, by } = chosen(box);
  const held = view(figure, key);
  plot.classList.toggle("ways", figure.kind === "ways");
  const curves = held ? held.curves : [];
  plot.setAttribute("aria-label", `${figure.title}. ${(held && held.seen) || figure.seen}`);
  if (held && held.seen) box.querySelector(".seen").textContent = held.seen;
  const isWay = figure.kind === "ways";
  const shape = layout(figure, curves, (held && held.x) || figure.x);
  if (!held) shape.title = { text: "This combination was not drawn.", font: { size: 14 } };
  const traces = isWay ? ways(curves, by) : lines(figure, curves);
  const options = { responsive: true, displaylogo: false, displayModeBar: narrow() ? false : "hover",
    modeBarButtonsToRemove: ["lasso2d", "select2d", "sendChartToCloud"], plotlyServerURL: "" };
  await Plotly.react(plot, traces, shape, options);
  const numbers = box.querySelector(".numbers");
  if (numbers.open) numbers.querySelector(".wide").replaceChildren(table(figure, curves));
}

function controls(box) {
  const figure = byName()[box.dataset.figure];
  const place = box.querySelector(".controls");
  const before = chosen(box);
  const options = (list, value) => list.map(([v, shown]) =>
    element("option", { value: v, textContent: shown, selected: v === value }));
  const former = [...place.querySelectorAll("select")].map((s) => s.value);
  const made = figure.choices.map(([label, list], k) => {
    const select = element("select", {}, ...options(list, former[k]));
    select.dataset.part = label;
    const whole = element("label", { hidden: list.length < 2 }, `${label} `, select);
    return whole;
  });
  if (figure.kind === "ways" && Object.keys(figure.views).length) {
    const rewards = Object.values(figure.views).some((v) => v.curves.some((c) =>
      c.more.reward.some((r) => r !== null)));
    const list = rewards ? [["time", "time"], ["reward", "reward"]] : [["time", "time"]];
    const select = element("select", {}, ...options(list, before.by));
    select.dataset.colour = "yes";
    made.push(element("label", { hidden: list.length < 2 }, "Colour ", select));
  }
  place.replaceChildren(...made);
}

function prepare(box) {
  controls(box);
  box.querySelector(".controls").addEventListener("change", () => draw(box));
  box.querySelector(".numbers").addEventListener("toggle", () => draw(box));
}

const boxes = () => [...document.querySelectorAll("figure[data-figure]")];

async function drawAll() {
  for (const box of boxes()) {
    try { await draw(box); } catch (error) { console.error(box.dataset.figure, error); }
    await new Promise((done) => setTimeout(done)); // the page stays responsive meanwhile
  }
  root.dataset.drawn = String(Number(root.dataset.drawn || 0) + 1);
}

function themed(name) {
  root.dataset.theme = name;
  const button = document.getElementById("theme");
  button.setAttribute("aria-pressed", String(name === "dark"));
}

async function plotly() {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent.trim()),
    (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = element("script", { textContent: await new Response(stream).text() });
  document.head.append(script); // its hash is in the page's policy
}

async function follow() {
  const held = new Map();
  let tag = data.stamp;
  for (;;) {
    await new Promise((done) => setTimeout(done, data.live * 1000));
    const status = document.getElementById("when");
    try {
      const answer = await fetch("data.json", { headers: { "If-None-Match": `"${tag}"` }, cache: "no-store" });
      if (answer.status === 304) continue;
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      data = await answer.json();
      tag = data.stamp;
      status.textContent = data.when;
      for (const place of document.querySelectorAll("[data-fragment]")) {
        // Escaped by the server; what is the same stays, with what the reader has opened.
        const name = place.dataset.fragment, fresh = data.fragments[name];
        if (fresh !== undefined && fresh !== held.get(name)) place.innerHTML = fresh;
        held.set(name, fresh);
      }
      boxes().forEach(controls);
      await drawAll();
    } catch (error) {
      status.textContent = `Not connected (${error.message}): the page shows what came last.`;
    }
  }
}

(async () => {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  themed(system.matches ? "dark" : "light");
  system.addEventListener("change", (e) => { themed(e.matches ? "dark" : "light"); drawAll(); });
  document.getElementById("theme").addEventListener("click", () => {
    themed(dark() ? "light" : "dark");
    drawAll();
  });
  await plotly();
  boxes().forEach(prepare);
  await drawAll();
  if (data.live) follow();
})();
