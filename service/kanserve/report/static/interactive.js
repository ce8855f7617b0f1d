// The part of a report that computes. It reads its data from the page, and makes no request.
"use strict";

(() => {
  const POINTS = 65; // of a curve
  const WIDTH = 220;
  const HEIGHT = 56;
  const SVG = "http://www.w3.org/2000/svg";
  const root = document.getElementById("interactive");
  const data = JSON.parse(document.getElementById("interactive-data").textContent);
  const row = Float32Array.from(data.inputs, (input) => input.start);
  const rows = []; // of the table, one per slider
  let net = null;
  let output = 0;

  const element = (tag, parent, text = "", name = "") => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (name) made.className = name;
    parent.append(made);
    return made;
  };
  const drawn = (tag, parent, attributes) => {
    const made = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    parent.append(made);
    return made;
  };
  const shown = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(6))) : String(value));
  const array = (address, count) => new Float32Array(net.memory.buffer, address, count);

  // Outputs of one row.
  const predict = (x) => {
    array(net.inputs(), x.length).set(x);
    net.predict();
    return Array.from(array(net.outputs(), data.outputs.length));
  };

  // Contributions of the inputs to the chosen output, of the row that predict got last.
  const explain = () => {
    net.explain();
    const count = data.inputs.length;
    return Array.from(array(net.contributions() + 4 * output * count, count));
  };

  // The largest difference from the outputs of the server, relative to the largest of them; and of the sums of
  // contributions from the predictions.
  const compared = () => {
    let scale = 0;
    let worst = 0;
    data.checks.y.forEach((expected, at) => {
      const y = predict(data.checks.x[at]);
      expected.forEach((value, to) => {
        scale = Math.max(scale, Math.abs(value));
        worst = Math.max(worst, Math.abs(value - y[to]));
        if (!Number.isFinite(y[to])) worst = Infinity;
      });
    });
    return worst / (scale || 1);
  };

  const curve = (at) => {
    const { low, high } = data.inputs[at];
    const x = Float32Array.from(row);
    return Array.from({ length: POINTS }, (_, point) => {
      x[at] = low + ((high - low) * point) / (POINTS - 1);
      return [x[at], predict(x)[output]];
    });
  };

  const draw = (own, y) => {
    const { low, high } = data.inputs[own.at];
    const points = curve(own.at);
    const values = points.map((point) => point[1]).concat(y).filter(Number.isFinite);
    const least = Math.min(...values);
    const most = Math.max(...values);
    const place = ([value, result]) => [
      3 + ((value - low) / (high - low || 1)) * (WIDTH - 6),
      HEIGHT - 4 - ((result - least) / (most - least || 1)) * (HEIGHT - 8),
    ];
    own.line.setAttribute("points", points.filter((point) => Number.isFinite(point[1])).map(place).join(" "));
    const [left, top] = place([row[own.at], y]);
    own.mark.setAttribute("cx", left);
    own.mark.setAttribute("cy", top);
    own.range.textContent = `${shown(least)} to ${shown(most)}`;
  };

  const update = () => {
    const y = predict(row);
    const shares = net.explain ? explain() : null;
    results.forEach((cell, at) => (cell.textContent = shown(y[at])));
    results.forEach((cell, at) => cell.parentNode.classList.toggle("chosen", at === output));
    if (shares) {
      const rounding = 1e-6 * Math.max(Math.abs(y[output]), Math.abs(data.base[output]));
      shares.forEach((share, at) => Math.abs(share) < rounding && (shares[at] = 0));
      const largest = Math.max(...shares.map(Math.abs)) || 1;
      for (const own of rows) {
        own.share.textContent = shown(shares[own.at]);
        own.bar.style.width = `${((Math.abs(shares[own.at]) / largest) * 6).toFixed(2)}rem`;
        own.bar.classList.toggle("less", shares[own.at] < 0);
      }
      const listed = rows.reduce((sum, own) => sum + shares[own.at], 0);
      const others = shares.reduce((sum, value) => sum + value, 0) - listed;
      total.textContent =
        `base value ${shown(data.base[output])} + contributions ${shown(listed)}` +
        (rows.length < shares.length ? ` + other inputs ${shown(others)}` : "") +
        ` = ${shown(y[output])}`;
    }
    for (const own of rows) draw(own, y[output]);
  };

  const set = (own, value) => {
    row[own.at] = value;
    own.slider.value = value;
    own.number.value = shown(row[own.at]);
  };

  const control = (table, at) => {
    const input = data.inputs[at];
    const line = element("tr", table);
    const name = input.name + (input.unit ? ` [${input.unit}]` : "");
    element("th", line, name);
    const own = { at };
    own.slider = element("input", element("td", line));
    Object.assign(own.slider, { type: "range", min: input.low, max: input.high, step: "any" });
    own.number = element("input", element("td", line));
    Object.assign(own.number, { type: "number", step: "any" });
    own.slider.setAttribute("aria-label", name);
    own.number.setAttribute("aria-label", `${name}, number`);
    own.share = element("td", line, "", "n");
    own.bar = element("div", element("td", line), "", "share");
    const cell = element("td", line);
    const picture = drawn("svg", cell, { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, role: "img" });
    picture.setAttribute("aria-label", `prediction over ${name}`);
    own.line = drawn("polyline", picture, { fill: "none", stroke: "#2266bb", "stroke-width": 1.5 });
    own.mark = drawn("circle", picture, { r: 3.5, fill: "#bb2222" });
    own.range = element("td", line, "", "n");
    own.slider.addEventListener("input", () => {
      set(own, Number(own.slider.value));
      update();
    });
    own.number.addEventListener("change", () => {
      if (own.number.value !== "") set(own, Number(own.number.value));
      update();
    });
    set(own, input.start);
    rows.push(own);
  };

  const results = [];
  let total = null;

  const build = (difference) => {
    root.textContent = "";
    const outputs = element("table", root, "", "outputs");
    data.outputs.forEach((name, at) => {
      const line = element("tr", outputs);
      const choose = element("button", element("th", line), name);
      choose.addEventListener("click", () => {
        output = at;
        update();
      });
      results.push(element("td", line, "", "n"));
    });
    if (net.explain) total = element("p", root, "", "total");
    const reset = element("button", root, "Reset");
    reset.addEventListener("click", () => {
      data.inputs.forEach((input, at) => (row[at] = input.start));
      rows.forEach((own) => set(own, data.inputs[own.at].start));
      update();
    });
    const table = element("table", root, "", "inputs");
    const head = element("tr", table);
    for (const text of ["input", "", "value", "contribution", "", "prediction over the input", "range"]) {
      element("th", head, text);
    }
    data.sliders.forEach((at) => control(table, at));
    const rest = data.inputs.length - rows.length;
    const notes = [
      net.explain ? `Reference of the contributions: ${data.explained}.` : `No contributions: ${data.explained}.`,
      rest ? `${rest} less important inputs keep their start values.` : "",
      `This page differs from the server by at most ${difference.toExponential(1)} of the largest output, on ` +
        `${data.checks.x.length} rows.`,
    ];
    element("p", root, notes.filter(Boolean).join(" "));
    update();
  };

  const start = async () => {
    const bytes = Uint8Array.from(atob(data.module), (sign) => sign.charCodeAt(0));
    net = (await WebAssembly.instantiate(bytes, {})).instance.exports;
    net._initialize?.();
    const difference = compared();
    if (!(difference <= data.tolerance)) {
      throw new Error(`its outputs differ from the server's by ${difference.toExponential(1)} of the largest output`);
    }
    build(difference);
    root.dataset.state = "ready";
  };

  start().catch((error) => {
    root.dataset.state = "failed";
    root.textContent = `The model does not run in this browser: ${error.message}`;
  });
})();
