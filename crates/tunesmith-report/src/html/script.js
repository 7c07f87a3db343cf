// Tooltips on plots and tokens, and copy buttons. The page is complete without it.
(() => {
  const show = {
    plain: v => v !== 0 && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e5) ? v.toExponential(3) : v.toFixed(4),
    rate: v => v === 0 ? "0" : v.toExponential(2).replace(/\.?0+e/, "e"),
    si: v => v >= 1e6 ? (v / 1e6).toPrecision(3) + "M" : v >= 1e3 ? (v / 1e3).toPrecision(3) + "k" : v.toPrecision(3),
  };

  const nearest = (points, x) => {
    let lo = 0, hi = points.length - 1;
    while (hi - lo > 1) {
      const mid = (lo + hi) >> 1;
      if (points[mid][0] < x) lo = mid; else hi = mid;
    }
    return Math.abs(points[lo][0] - x) <= Math.abs(points[hi][0] - x) ? lo : hi;
  };

  const add = (parent, tag, cls, text) => {
    const e = document.createElement(tag);
    if (cls) e.className = cls;
    if (text !== undefined) e.textContent = text;
    parent.append(e);
    return e;
  };

  for (const figure of document.querySelectorAll("figure.plot")) {
    const canvas = figure.querySelector(".canvas");
    const { x: [lo, hi], y: [bottom, top], unit, series } = JSON.parse(figure.querySelector("script").textContent);
    if (!series.length) continue;
    const line = add(canvas, "div", "cross");
    const tip = add(canvas, "div", "tip");
    const lead = series[0].points;
    let at = lead.length - 1;
    const point = x => {
      at = nearest(lead, x);
      const step = lead[at][0];
      tip.replaceChildren();
      canvas.querySelectorAll(".spot").forEach(e => e.remove());
      add(tip, "b", "", "step " + step);
      let height = 0;
      for (const s of series) {
        const p = s.points[nearest(s.points, step)];
        // An evaluation is shown only near where it was made.
        if (s.class === "eval" && Math.abs(p[0] - step) > (hi - lo) / 60) continue;
        const row = add(tip, "div", s.class);
        add(row, "span", "", s.name);
        add(row, "em", "", show[unit](p[1]));
        const y = (top - p[1]) / (top - bottom) * 100;
        if (y < 0) continue;
        height = y;
        const spot = add(canvas, "div", "spot " + s.class);
        spot.style.left = (p[0] - lo) / (hi - lo) * 100 + "%";
        spot.style.top = y + "%";
      }
      const left = (step - lo) / (hi - lo) * 100;
      line.style.left = left + "%";
      tip.style.left = left + "%";
      tip.classList.toggle("flip", left > 55);
      tip.classList.toggle("low", height < 42);
      canvas.classList.add("live");
    };
    const leave = () => {
      canvas.classList.remove("live");
      canvas.querySelectorAll(".spot").forEach(e => e.remove());
    };
    const svg = canvas.querySelector("svg");
    canvas.addEventListener("pointermove", e => {
      const box = svg.getBoundingClientRect();
      point(lo + (e.clientX - box.left) / box.width * (hi - lo));
    });
    canvas.addEventListener("pointerleave", leave);
    canvas.addEventListener("blur", leave);
    canvas.addEventListener("keydown", e => {
      const move = { ArrowLeft: -1, ArrowRight: 1, Home: -lead.length, End: lead.length }[e.key];
      if (move === undefined) return;
      e.preventDefault();
      at = Math.min(Math.max(at + move, 0), lead.length - 1);
      point(lead[at][0]);
    });
  }

  document.addEventListener("mouseover", e => {
    const token = e.target.closest?.("[data-t]");
    if (token && !token.title) {
      const learned = token.tagName === "B" ? "trained" : "read only";
      token.title = "token " + token.dataset.t + ", " + learned;
    }
  });

  for (const pre of document.querySelectorAll("pre.copy")) {
    if (!navigator.clipboard) break;
    const button = add(pre, "button", "", "copy");
    button.addEventListener("click", () => {
      navigator.clipboard.writeText(pre.querySelector("code").textContent).then(() => {
        button.textContent = "copied";
        setTimeout(() => (button.textContent = "copy"), 1200);
      });
    });
  }
})();
