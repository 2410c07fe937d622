// Charts, and parts of pages that follow the server. Pages can be read without either.
(() => {
  "use strict";

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const charts = new Map();

  const draw = (element) => {
    if (!window.echarts) return;
    const text = { color: colour("--ink") };
    const axis = { axisLabel: text, axisLine: { lineStyle: { color: colour("--line") } }, splitLine: { lineStyle: { color: colour("--line") } } };
    const given = JSON.parse(element.dataset.chart);
    const styled = (one) => ({ ...axis, ...one, nameTextStyle: text });
    if (!charts.has(element)) {
      charts.set(element, window.echarts.init(element, null, { renderer: "canvas" }));
      new ResizeObserver(() => charts.get(element).resize()).observe(element);
    }
    charts.get(element).setOption({
      animation: false,
      textStyle: text,
      grid: { left: 12, right: 24, top: 40, bottom: 12, containLabel: true },
      tooltip: { trigger: "axis", renderMode: "richText" },
      ...given,
      legend: given.legend ? { textStyle: text, ...given.legend } : undefined,
      xAxis: styled(given.xAxis || {}),
      yAxis: styled(given.yAxis || {}),
    });
  };

  // a table that is wider than the page is moved with arrow keys once it has the focus
  const reach = (box) => {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };

  const follow = (element) => {
    if (element.dataset.followed) return;
    element.dataset.followed = "yes";
    const events = new EventSource(element.dataset.follow);
    events.onmessage = (event) => { element.innerHTML = event.data; };
    events.addEventListener("end", () => { events.close(); window.location.reload(); });
    window.addEventListener("pagehide", () => events.close());
  };

  // a slider and a number that say the same; what is sent is the number
  const pair = (slider) => {
    if (slider.dataset.paired) return;
    slider.dataset.paired = "yes";
    const number = document.getElementById(slider.dataset.with);
    const shown = slider.parentElement.querySelector("output");
    const tell = () => {
      slider.setAttribute("aria-valuetext", number.value);
      shown.textContent = Number(number.value) === Number(shown.dataset.agreed) ? "as agreed" : `agreed: ${shown.dataset.agreed}`;
    };
    slider.addEventListener("input", () => { number.value = slider.value; tell(); });
    number.addEventListener("input", () => { slider.value = number.value; tell(); });
    // what a form was reset to is there only after the event
    number.form.addEventListener("reset", () => setTimeout(() => { tell(); number.dispatchEvent(new Event("change", { bubbles: true })); }));
    tell();
  };

  const prepare = (root) => {
    charts.forEach((chart, element) => { if (!element.isConnected) { chart.dispose(); charts.delete(element); } });
    root.querySelectorAll("[data-chart]").forEach((element) => { if (!charts.has(element)) draw(element); });
    root.querySelectorAll(".table").forEach((box) => new ResizeObserver(() => reach(box)).observe(box));
    root.querySelectorAll("[data-follow]").forEach(follow);
    root.querySelectorAll("input[data-with]").forEach(pair);
    root.querySelectorAll("[data-confirm]").forEach((button) => {
      button.addEventListener("click", (event) => { if (!window.confirm(button.dataset.confirm)) event.preventDefault(); });
    });
  };

  document.addEventListener("DOMContentLoaded", () => prepare(document));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((_, element) => draw(element)));
  document.addEventListener("htmx:load", (event) => prepare(event.detail.elt.parentElement || document));
  // what a refusal says is shown where the answer would have been
  document.addEventListener("htmx:beforeSwap", (event) => { if (event.detail.xhr.status >= 400) event.detail.shouldSwap = true; });
})();
