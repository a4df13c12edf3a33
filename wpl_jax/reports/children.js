// Children of searches over time, on a canvas: no library, no network.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("children-data").textContent);
  const canvas = document.getElementById("children-canvas");
  const tip = document.getElementById("children-tip");
  const controls = document.getElementById("children-controls");
  const context = canvas.getContext("2d");
  const margin = { left: 62, right: 12, top: 10, bottom: 40 };
  const visible = data.arms.map(() => true);
  let measure = 1; // of data.measures
  let view = null; // zoomed range [x0, x1, y0, y1], null for all
  let drag = null; // where the mouse went down
  let scale = null;

  const shown = () => data.points.filter((p) => visible[p.arm] && p.y[measure] !== null);

  // Exploded children would leave no room: 2 % at the top are drawn at the border.
  function range(points) {
    if (view) return view;
    const ys = points.map((p) => p.y[measure]).sort((a, b) => a - b);
    if (!ys.length) return [0, 1, 0, 1];
    const low = ys[0];
    const high = ys[Math.floor((ys.length - 1) * (ys.length > 50 ? 0.98 : 1))];
    const pad = (high - low || Math.abs(high) || 1) * 0.05;
    const xs = data.points.map((p) => p.x);
    const first = xs.reduce((a, b) => Math.min(a, b), Infinity);
    const last = xs.reduce((a, b) => Math.max(a, b), -Infinity);
    return [first - 0.02 * (last - first + 1), last + 0.02 * (last - first + 1), low - pad, high + pad];
  }

  function ticks(low, high, count) {
    const raw = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const found = [];
    for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-9; t += step) found.push(t);
    return found.map((t) => Number(t.toPrecision(10)));
  }

  function draw() {
    const width = canvas.clientWidth, height = canvas.clientHeight;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const points = shown();
    const [x0, x1, y0, y1] = range(points);
    const toX = (x) => margin.left + ((x - x0) / (x1 - x0)) * (width - margin.left - margin.right);
    const toY = (y) => height - margin.bottom - ((y - y0) / (y1 - y0)) * (height - margin.top - margin.bottom);
    scale = { toX, toY, x0, x1, y0, y1, width, height };
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = "#444";
    context.strokeStyle = "#e4e4e4";
    context.textAlign = "center";
    for (const t of ticks(x0, x1, 8)) {
      context.beginPath(); context.moveTo(toX(t), margin.top); context.lineTo(toX(t), height - margin.bottom); context.stroke();
      context.fillText(String(t), toX(t), height - margin.bottom + 16);
    }
    context.fillText("epoch", (margin.left + width) / 2, height - 6);
    context.textAlign = "right";
    for (const t of ticks(y0, y1, 6)) {
      context.beginPath(); context.moveTo(margin.left, toY(t)); context.lineTo(width - margin.right, toY(t)); context.stroke();
      context.fillText(String(t), margin.left - 6, toY(t) + 4);
    }
    context.save();
    context.translate(14, (margin.top + height - margin.bottom) / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.fillText(`${data.measures[measure]}, ${data.unit}`, 0, 0);
    context.restore();
    const size = points.length > 5000 ? 2 : points.length > 500 ? 3 : 4;
    context.globalAlpha = points.length > 2000 ? 0.5 : 0.75;
    let drawn = 0;
    for (const p of points) {
      const x = toX(p.x);
      if (x < margin.left || x > width - margin.right) continue;
      const y = Math.min(Math.max(toY(p.y[measure]), margin.top), height - margin.bottom);
      context.fillStyle = data.arms[p.arm].color;
      context.fillRect(x - size / 2, y - size / 2, size, size);
      drawn += 1;
    }
    context.globalAlpha = 1;
    canvas.dataset.drawn = drawn;
  }

  function nearest(event) {
    const box = canvas.getBoundingClientRect();
    const mx = event.clientX - box.left, my = event.clientY - box.top;
    let best = null, least = 20 * 20; // pixels
    for (const p of shown()) {
      const y = Math.min(Math.max(scale.toY(p.y[measure]), margin.top), scale.height - margin.bottom);
      const distance = (scale.toX(p.x) - mx) ** 2 + (y - my) ** 2;
      if (distance < least) { least = distance; best = p; }
    }
    return best;
  }

  function describe(p) {
    const arm = data.arms[p.arm];
    const lines = [`${arm.name}, seed ${p.seed}, epoch ${Math.floor(p.x)}, child ${p.child}`];
    data.measures.forEach((name, i) => {
      if (p.y[i] !== null) lines.push(`${name}: ${Number(p.y[i].toPrecision(5))}`);
    });
    if (p.choice) arm.decisions.forEach((d, i) => lines.push(`${d[0]}: ${d[1][p.choice[i]]}`));
    return lines;
  }

  canvas.addEventListener("mousemove", (event) => {
    const p = nearest(event);
    tip.hidden = !p;
    if (!p) return;
    const lines = describe(p);
    tip.replaceChildren(...lines.slice(0, 40).map((line) => {
      const row = document.createElement("div");
      row.textContent = line;
      return row;
    }));
    tip.classList.toggle("wide", lines.length > 14);
    const box = canvas.parentElement.getBoundingClientRect();
    const left = event.clientX - box.left, right = left > box.width / 2;
    tip.style.left = right ? "" : `${left + 14}px`;
    tip.style.right = right ? `${box.width - left + 14}px` : "";
    tip.style.top = `${Math.max(0, event.clientY - box.top - 20)}px`;
  });
  canvas.addEventListener("mouseleave", () => { tip.hidden = true; });
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const share = (event.clientX - box.left - margin.left) / (scale.width - margin.left - margin.right);
    const up = (scale.height - margin.bottom - (event.clientY - box.top)) / (scale.height - margin.top - margin.bottom);
    return [scale.x0 + share * (scale.x1 - scale.x0), scale.y0 + up * (scale.y1 - scale.y0), event.clientX, event.clientY];
  };
  canvas.addEventListener("mousedown", (event) => { drag = at(event); });
  canvas.addEventListener("mouseup", (event) => {
    const end = at(event);
    if (drag && Math.abs(end[2] - drag[2]) > 8 && Math.abs(end[3] - drag[3]) > 8) {
      view = [Math.min(drag[0], end[0]), Math.max(drag[0], end[0]), Math.min(drag[1], end[1]), Math.max(drag[1], end[1])];
      draw();
    }
    drag = null;
  });
  canvas.addEventListener("dblclick", () => { view = null; draw(); });

  data.arms.forEach((arm, i) => {
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => { visible[i] = box.checked; draw(); });
    const name = document.createElement("span");
    name.style.color = arm.color;
    name.textContent = `\u25A0 ${arm.name}`;
    label.append(box, name);
    controls.append(label);
  });
  const select = document.createElement("select");
  data.measures.forEach((name, i) => select.add(new Option(name, i, i === measure, i === measure)));
  select.addEventListener("change", () => { measure = Number(select.value); view = null; draw(); });
  controls.append(select);
  window.addEventListener("resize", draw);
  draw();
})();
