// The Live tab: what the microphone gives is sent as 16-bit PCM, all samples since the last answer at a time.
(() => {
  const TAP = `registerProcessor("tap", class extends AudioWorkletProcessor {
    constructor() { super(); this.held = []; }
    process(inputs) {
      const samples = inputs[0][0];
      if (samples) this.held.push(samples.slice());
      if (this.held.length >= 32) { this.port.postMessage(this.held); this.held = []; }
      return true;
    }
  });`;
  let stop = null;
  const show = (name, text) => { document.getElementById(`live-${name}`).innerHTML = text; };
  const fail = (text) => {
    const box = document.createElement("div");
    box.className = "status error";
    box.setAttribute("role", "alert");
    box.textContent = text;
    document.getElementById("live-status").replaceChildren(box);
  };

  async function follow(button) {
    let held = [], isOver = false, media = null, context = null;
    stop = () => { isOver = true; };
    button.textContent = "Stop";
    try {
      media = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: false,
        noiseSuppression: false, autoGainControl: false } });
      context = new AudioContext();
      await context.audioWorklet.addModule(URL.createObjectURL(new Blob([TAP], { type: "text/javascript" })));
      const tap = new AudioWorkletNode(context, "tap", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
      tap.port.onmessage = (message) => { if (!isOver) held.push(...message.data); };
      context.createMediaStreamSource(media).connect(tap);
      const queries = document.querySelector("#live-queries textarea").value;
      const address = `./live/${crypto.randomUUID()}?` + new URLSearchParams({ rate: context.sampleRate, queries });
      for (;;) {
        await new Promise((resolve) => setTimeout(resolve, 400));
        const isLast = isOver, samples = held;
        held = [];
        const body = new Int16Array(samples.reduce((sum, part) => sum + part.length, 0));
        let place = 0;
        for (const part of samples) for (const value of part) {
          body[place++] = Math.max(-32768, Math.min(32767, Math.round(32768 * value)));
        }
        const reply = await fetch(address + (isLast ? "&end=1" : ""), { method: "POST", body });
        if (!reply.ok) throw new Error(`The server answered ${reply.status}; record again.`);
        const shown = await reply.json();
        for (const name of ["status", "bars", "table"]) show(name, shown[name]);
        if (shown.is_over) break;
      }
    } catch (error) {
      fail(error.name === "NotAllowedError" ? "The browser does not allow the microphone." : error.message);
    }
    if (media) media.getTracks().forEach((track) => track.stop());
    if (context) context.close();
    stop = null;
    button.textContent = "Record";
  }

  document.addEventListener("click", (click) => {
    const button = click.target.closest("#live-record");
    if (!button) return;
    if (stop) stop(); else follow(button);
  });
})();
