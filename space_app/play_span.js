// A click on an event in a picture plays its span; a second one stops it. The keyboard does the same: Tab to the bars,
// arrows from bar to bar, Enter or Space to play. While anything plays, a line runs through the picture.
//
// Gradio makes a new picture for every new value, so pictures are looked for again and again. Its players keep their
// audio element in a shadow tree; one inside `.plays-spans` is preferred, else the first that has a source is taken.
(() => {
  if (window.playsSpans) return;
  window.playsSpans = true;

  const SHORTEST = 0.1; // seconds: less is not heard
  const known = new WeakMap(); // picture -> the `on` that we listen to; Plotly replaces it when it starts anew
  let audio = null, span = null, clicked = 0;

  const style = document.createElement("style");
  style.textContent = `
    .js-plotly-plot .modebar-btn--logo { display: none !important; }
    .js-plotly-plot.over-event .nsewdrag { cursor: pointer !important; }
    .js-plotly-plot .point[role=button]:focus-visible { outline: 2px solid currentColor; outline-offset: 1px; }
    .play-line { position: absolute; width: 1px; pointer-events: none; background: #D1242F; display: none; }`;
  document.head.append(style);

  function audioIn(root) {
    const inside = [...root.querySelectorAll("*")].filter((node) => node.shadowRoot);
    return [...root.querySelectorAll("audio"), ...inside.flatMap((node) => audioIn(node.shadowRoot))];
  }

  function findAudio() {
    const roots = [...document.querySelectorAll(".plays-spans"), document];
    return roots.flatMap(audioIn).find((found) => found.currentSrc || found.src) || null;
  }

  function watch(found) {
    if (!found || found === audio) return;
    if (audio) audio.pause();
    audio = found;
    span = null;
    audio.addEventListener("timeupdate", stopAtEnd);
    audio.addEventListener("play", follow);
    audio.addEventListener("seeked", drawLines);
    // Who pauses, or moves elsewhere, has left the span.
    audio.addEventListener("pause", () => { if (audio.paused) span = null; });
    audio.addEventListener("seeking", () => {
      if (span && (audio.currentTime < span[0] - 0.05 || audio.currentTime > span[1])) span = null;
    });
    if (!audio.paused) follow();
  }

  function play(onset, offset) {
    watch(findAudio());
    if (!audio) return;
    // Plotly tells of a tap twice, as touch and as mouse.
    if (Date.now() - clicked < 400) return;
    clicked = Date.now();
    if (span && !audio.paused && span[0] === onset && span[2] === offset) {
      audio.pause();
      return;
    }
    span = [onset, Math.max(offset, onset + SHORTEST), offset];
    audio.currentTime = onset;
    audio.play().catch(() => { span = null; });
  }

  function stopAtEnd() {
    if (!span || audio.seeking || audio.currentTime < span[1]) return;
    span = null;
    audio.pause();
  }

  function follow() {
    stopAtEnd();
    drawLines();
    if (!audio.paused) requestAnimationFrame(follow);
  }

  function pictures() {
    return [...document.querySelectorAll(".js-plotly-plot")].filter(
      (plot) => plot.on && plot._fullLayout?.xaxis && plot.layout?.meta?.duration);
  }

  function drawLines() {
    for (const plot of pictures()) {
      const holder = plot.querySelector(".svg-container"), axis = plot._fullLayout.xaxis;
      let line = holder.querySelector(".play-line");
      if (!line) {
        line = document.createElement("div");
        line.className = "play-line";
        holder.append(line);
      }
      const [start, end] = axis.range, place = (audio.currentTime - start) / (end - start);
      const size = plot._fullLayout._size;
      const shown = place >= 0 && place <= 1 && (audio.currentTime > 0 || !audio.paused);
      Object.assign(line.style, {
        display: shown ? "block" : "none", left: `${axis._offset + place * axis._length}px`,
        top: `${size.t}px`, height: `${size.h}px`,
      });
    }
  }

  function bars(plot) {
    return [...plot.querySelectorAll(".barlayer .point")];
  }

  // One stop of the Tab key for all bars of a picture.
  function describe(plot) {
    const points = bars(plot);
    points.forEach((point, place) => {
      const trace = point.closest(".trace").__data__[0].trace;
      const index = [...point.parentNode.children].indexOf(point);
      const [onset, offset] = trace.customdata[index], meta = trace.meta;
      const label = meta.labels ? `${meta.labels[index]}, reference` : meta.label;
      point.span = [onset, offset];
      point.setAttribute("role", "button");
      point.setAttribute("aria-label", `Play ${label}, ${onset.toFixed(2)} to ${offset.toFixed(2)} seconds`);
      if (!point.hasAttribute("tabindex")) point.setAttribute("tabindex", place ? -1 : 0);
    });
  }

  function listen(plot) {
    const spanOf = (event) => event.points.map((point) => point.customdata).find(Array.isArray);
    plot.on("plotly_click", (event) => { if (spanOf(event)) play(...spanOf(event)); });
    plot.on("plotly_hover", (event) => plot.classList.toggle("over-event", Boolean(spanOf(event))));
    plot.on("plotly_unhover", () => plot.classList.remove("over-event"));
    plot.on("plotly_afterplot", () => { describe(plot); if (audio) drawLines(); });
    plot.on("plotly_relayouting", () => { if (audio) drawLines(); });
    // A finger that drags scrolls the page, unless it has asked for a tool of the picture.
    if (matchMedia("(pointer: coarse)").matches) window.Plotly?.relayout(plot, { dragmode: false });
    describe(plot);
    if (audio) drawLines();
  }

  document.addEventListener("keydown", (event) => {
    const point = event.target.closest?.(".js-plotly-plot .point[role=button]");
    if (!point) return;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) {
      const points = bars(point.closest(".js-plotly-plot")), next = points[points.indexOf(point) + step];
      if (next) {
        point.setAttribute("tabindex", -1);
        next.setAttribute("tabindex", 0);
        next.focus();
      }
    } else if (event.key === "Enter" || event.key === " ") {
      play(...point.span);
    } else return;
    event.preventDefault();
  });

  setInterval(() => {
    for (const plot of pictures()) {
      if (known.get(plot) === plot.on) continue;
      known.set(plot, plot.on);
      listen(plot);
    }
    if (!audio?.isConnected || !(audio.currentSrc || audio.src)) watch(findAudio());
  }, 300);
})();
