// The bundle's preprocessing, as mmedge/preprocess does it with Pillow and kaldi-native-fbank, and its answers.

/** A picture (Blob) -> float32 [channels, height, width]. */
export async function image(spec, blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // what lies under transparent pixels is arbitrary
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  return pixels(spec, context.getImageData(0, 0, bitmap.width, bitmap.height));
}

/** Opaque RGBA pixels {data, width, height} -> float32 [channels, height, width]. */
export function pixels(spec, { data, width, height }) {
  const [left, top, across, down] = middle(spec, width, height);
  const planes = [];
  for (let c = 0; c < spec.channels; c++) {
    const plane = new Uint8Array(across * down);
    for (let i = 0; i < plane.length; i++) {
      const at = 4 * ((top + Math.trunc(i / across)) * width + left + (i % across));
      plane[i] = spec.channels === 3
        ? data[at + c]
        : (data[at] * 19595 + data[at + 1] * 38470 + data[at + 2] * 7471 + 0x8000) >> 16; // ITU-R 601, as Pillow's "L"
    }
    planes.push(resize(plane, across, down, spec.width, spec.height));
  }
  const size = spec.width * spec.height;
  const out = new Float32Array(spec.channels * size);
  for (let c = 0; c < spec.channels; c++) {
    for (let i = 0; i < size; i++) out[c * size + i] = normalised(spec, Math.fround(planes[c][i] / 255), c);
  }
  return out;
}

/** What of a picture is seen: [left, top, width, height]. Bundles of before crop_share have none. */
function middle(spec, width, height) {
  const aspect = spec.width / spec.height, share = spec.crop_share ?? 1, center = spec.crop === "center";
  let across = center ? Math.min(width, Math.max(1, even(height * aspect))) : width;
  let down = center ? Math.min(height, Math.max(1, even(width / aspect))) : height;
  across = Math.max(1, even(across * share));
  down = Math.max(1, even(down * share));
  return [Math.trunc((width - across) / 2), Math.trunc((height - down) / 2), across, down];
}

/** Rounds as Python does: halves to the even number. */
function even(value) {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

/** A WAV file (Blob) -> float32 [1, bands, frames], or [samples] of a waveform. */
export async function audio(spec, blob) {
  const raw = spec.features === "waveform", preset = PRESETS[spec.preset ?? "kaldi"];
  if (preset === undefined) throw new Error(`the page does not know the log-mel of ${spec.preset}`);
  const wave = new Float64Array(samplesOf(spec));
  const read = readWave(await blob.arrayBuffer(), spec.sample_rate, spec.channel ?? null);
  const spare = Math.max(0, read.length - wave.length);
  const start = { start: 0, center: Math.trunc(spare / 2), end: spare }[spec.take ?? "start"];
  const heard = read.subarray(start, start + wave.length);
  wave.set(raw && spec.standardize ? standardized(heard) : heard);
  if (raw) return Float32Array.from(wave, (value) => normalised(spec, value, 0));
  const mel = preset ? centredMel(spec, preset, wave) : logMel(spec, wave);
  const cepstral = spec.features === "mfcc";
  const rows = cepstral ? mel.map((energies) => cepstrum(spec, energies)) : mel;
  const bands = cepstral ? spec.coefficients : spec.mels;
  const out = new Float32Array(bands * spec.frames);
  for (let b = 0; b < bands; b++) {
    for (let f = 0; f < spec.frames; f++) {
      const value = f < rows.length ? rows[f][b] : cepstral ? 0 : Math.log(EPSILON);
      out[b * spec.frames + f] = normalised(spec, value, b);
    }
  }
  return out;
}

/** Samples of the sound that fills the tensor. */
export function samplesOf(spec) {
  if (spec.features === "waveform" && spec.length) return spec.length;
  if ((spec.preset ?? "kaldi") !== "kaldi") return spec.frames * Math.max(1, even((spec.hop_ms * spec.sample_rate) / 1000));
  return even((spec.frames * spec.hop_ms * spec.sample_rate) / 1000);
}

/** Mean 0 and variance 1, as Wav2Vec2FeatureExtractor brings a sound to. */
function standardized(wave) {
  const mean = wave.reduce((sum, value) => sum + value, 0) / wave.length;
  const variance = wave.reduce((sum, value) => sum + (value - mean) ** 2, 0) / wave.length;
  return wave.map((value) => (value - mean) / Math.sqrt(variance + 1e-7));
}

/** Kaldi's MFCC of log-mel energies: an orthonormal cosine transform, and a lifter of 22. */
function cepstrum(spec, energies) {
  return Array.from({ length: spec.coefficients }, (_, k) => {
    let sum = 0;
    energies.forEach((energy, n) => (sum += energy * Math.cos((Math.PI / energies.length) * (n + 0.5) * k)));
    return sum * Math.sqrt((k ? 2 : 1) / energies.length) * (1 + 11 * Math.sin((Math.PI * k) / 22));
  });
}

/** Numbers, then words, in the order of spec.columns and spec.categorical; null is missing -> float32 [numbers, flags, words]. */
export function tabular(spec, cells) {
  const words = spec.categorical ?? [];
  const names = [...spec.columns, ...words];
  const numbers = cells.slice(0, spec.columns.length);
  if (cells.length !== names.length || numbers.some((cell) => cell !== null && !Number.isFinite(cell))) {
    throw new Error(`wanted are ${names.length} cells: ${names.join(", ")}`);
  }
  if (cells.every((cell) => cell === null)) throw new Error("no cell has a value: leave the input out");
  const out = numbers.map((cell, index) => (cell === null ? 0 : normalised(spec, cell, index)));
  if (spec.missing_indicator) out.push(...numbers.map((cell) => Number(cell === null)));
  words.forEach((name, index) => {
    const known = spec.categories?.[name] ?? [];
    const cell = cells[spec.columns.length + index];
    const place = cell === null ? 0 : known.indexOf(String(cell)) + 1; // 0: unknown, or missing
    if (spec.encoding === "ordinal") out.push(known.length ? place / known.length : 0);
    else for (let i = 0; i <= known.length; i++) out.push(Number(cell !== null && place === i));
  });
  return Float32Array.from(out);
}

/** {output's name: {task, labels}} of a bundle's contract; version 0.1 described its one output beside the modalities. */
export function headsOf(contract) {
  return contract.heads ?? { [contract.output]: { task: contract.task, labels: contract.labels } };
}

/** {output's name: one sample's numbers} -> one head's prediction, or {head: its prediction} where there are several. */
export function predicted(contract, outputs) {
  const each = Object.entries(headsOf(contract)).map(([name, head]) => [name, ofHead(head, outputs[name])]);
  return each.length === 1 ? each[0][1] : Object.fromEntries(each);
}

/** {label, probabilities}, {label, rank, probabilities}, {labels (those above 0.5, the likeliest first), probabilities} {value}, {values}, {array, length} or {embeddings: {tower: vector}}. */
function ofHead(head, output) {
  const values = Array.from(output);
  if (head.decoding) throw new Error("the page does not write texts yet: their loop stands in mmedge/backends/writing.py");
  if (head.task === "retrieval") return { embeddings: embeddings(head, values) };
  if (head.task === "regression") return head.values?.length ? { values: byName(head.values, values) } : { value: values[0] };
  if (head.task === "frames") return frames(head, values);
  const heat = head.temperature ?? 1; // of probabilities alone: what is chosen does not change by it
  const named = (numbers) => byName(head.labels, numbers);
  if (head.task === "ordinal") {
    const rank = values.filter((value) => value > 0).length;
    let least = 1;
    const passed = [1, ...values.map((value) => (least = Math.min(least, 0.5 * (1 + Math.tanh(value / (2 * heat)))))), 0];
    return { label: head.labels[rank], rank, probabilities: named(head.labels.map((_, k) => passed[k] - passed[k + 1])) };
  }
  if (head.task === "multilabel") {
    // No overflow, and float32 as in the runtime: of labels that are both certain the first in order stays the first.
    const probabilities = named(values.map((value) => 0.5 * Math.fround(1 + Math.tanh(value / (2 * heat)))));
    const found = head.labels.filter((label) => probabilities[label] > 0.5);
    return { labels: found.sort((one, other) => probabilities[other] - probabilities[one]), probabilities };
  }
  const top = Math.max(...values);
  const shifted = values.map((value) => Math.exp((value - top) / heat));
  const sum = shifted.reduce((total, value) => total + value, 0);
  return { label: head.labels[values.indexOf(top)], probabilities: named(shifted.map((value) => value / sum)) };
}

function byName(names, numbers) {
  return Object.fromEntries(names.map((name, index) => [name, numbers[index]]));
}

/** {array: [frames, …] as nested lists, length}: the last number is how many frames there are, where lengths vary. */
function frames(head, values) {
  const [longest, ...rest] = head.shape;
  const length = head.varies ? Math.min(longest, Math.max(1, halfToEven(values.at(-1)))) : longest;
  const size = rest.reduce((product, axis) => product * axis, 1);
  const nested = (numbers, shape) =>
    shape.length ? Array.from({ length: shape[0] }, (_, k) => nested(numbers.slice((k * numbers.length) / shape[0], ((k + 1) * numbers.length) / shape[0]), shape.slice(1))) : numbers[0];
  return { array: nested(values.slice(0, length * size), [length, ...rest]), length };
}

/** A number rounded as NumPy does. */
function halfToEven(value) {
  const above = Math.round(value);
  return above - value === 0.5 && above % 2 ? above - 1 : above;
}

/** A contract whose probabilities are taken at the temperatures that a bundle's target has, {head: temperature}. */
export function heated(contract, temperatures) {
  const heads = Object.entries(headsOf(contract)).map(([name, head]) => [name, { ...head, temperature: temperatures?.[name] ?? 1 }]);
  return { ...contract, heads: Object.fromEntries(heads) };
}

/** {tower: its vector, of unit length}, of the towers that saw something. */
function embeddings(head, values) {
  const each = Object.keys(head.towers).map((tower, k) => {
    const vector = values.slice(k * head.dimensions, (k + 1) * head.dimensions);
    const length = Math.hypot(...vector);
    return [tower, length ? vector.map((value) => value / length) : null];
  });
  return Object.fromEntries(each.filter(([, vector]) => vector));
}

const EPSILON = 2 ** -23; // float32's, Kaldi's floor of an energy

function normalised(spec, value, index) {
  if (!spec.mean || !spec.std) return value;
  const at = spec.mean.length === 1 ? 0 : index; // one for all
  return (value - spec.mean[at]) / spec.std[at];
}

/** Pillow's bilinear resize of 8-bit pixels: a triangle as wide as the scale, in fixed point, rows first. */
function resize(pixels, width, height, toWidth, toHeight) {
  if (width === toWidth && height === toHeight) return pixels;
  const across = width === toWidth ? pixels : pass(pixels, height, coefficients(width, toWidth), width, 1, toWidth, 1);
  return height === toHeight
    ? across
    : pass(across, toWidth, coefficients(height, toHeight), 1, toWidth, 1, toWidth);
}

function pass(pixels, lines, weights, lineStep, step, outLineStep, outStep) {
  const out = new Uint8Array(lines * weights.length);
  for (let line = 0; line < lines; line++) {
    weights.forEach(({ first, taps }, to) => {
      let sum = 1 << 21;
      for (let k = 0; k < taps.length; k++) sum += pixels[line * lineStep + (first + k) * step] * taps[k];
      out[line * outLineStep + to * outStep] = Math.min(255, Math.max(0, sum >> 22));
    });
  }
  return out;
}

function coefficients(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1);
  return Array.from({ length: to }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(from, Math.trunc(centre + support + 0.5));
    const taps = [];
    for (let x = first; x < last; x++) taps.push(Math.max(0, 1 - Math.abs((x - centre + 0.5) / support)));
    const sum = taps.reduce((total, tap) => total + tap, 0);
    return { first, taps: taps.map((tap) => Math.trunc((tap / sum) * (1 << 22) + 0.5)) };
  });
}

/** Samples of a WAV file, -1 to 1: one channel, or the mean of all where it is null. */
function readWave(buffer, wantedRate, channel) {
  const view = new DataView(buffer);
  const tag = (at) => String.fromCharCode(...new Uint8Array(buffer, at, 4));
  if (buffer.byteLength < 44 || tag(0) !== "RIFF" || tag(8) !== "WAVE") throw new Error("the sound is not a WAV file");
  let channels, rate, bits, format;
  for (let at = 12; at + 8 <= buffer.byteLength; ) {
    const size = view.getUint32(at + 4, true);
    if (tag(at) === "fmt ") {
      format = view.getUint16(at + 8, true);
      if (format === 0xfffe) format = view.getUint16(at + 32, true); // extensible: the kind stands further on
      channels = view.getUint16(at + 10, true);
      rate = view.getUint32(at + 12, true);
      bits = view.getUint16(at + 22, true);
    } else if (tag(at) === "data") {
      const sample = {
        "1/16": (place) => view.getInt16(place, true) / 2 ** 15,
        "1/24": (place) => ((view.getInt8(place + 2) << 16) | view.getUint16(place, true)) / 2 ** 23,
        "1/32": (place) => view.getInt32(place, true) / 2 ** 31,
        "3/32": (place) => view.getFloat32(place, true),
      }[`${format}/${bits}`];
      if (!sample) throw new Error("the sound must be PCM of 16, 24 or 32 bits, or float of 32 bits");
      if (rate !== wantedRate) throw new Error(`the sound has ${rate} Hz, the model takes ${wantedRate} Hz: resample it`);
      if (channel !== null && channel >= channels) throw new Error(`the sound has ${channels} channels, channel ${channel} is asked for`);
      const step = bits / 8;
      const count = Math.floor(Math.min(size, buffer.byteLength - at - 8) / (step * channels));
      if (!count) break;
      return Float64Array.from({ length: count }, (_, i) => {
        const frame = at + 8 + i * channels * step;
        if (channel !== null) return sample(frame + channel * step);
        let sum = 0;
        for (let c = 0; c < channels; c++) sum += sample(frame + c * step) / channels;
        return sum;
      });
    }
    at += 8 + size + (size % 2);
  }
  throw new Error("the WAV file holds no samples");
}

/** Kaldi's fbank: no dither, mirrored edges, pre-emphasis 0.97, Povey window, power, HTK mel scale, natural log. */
function logMel(spec, wave) {
  const shift = Math.trunc(spec.sample_rate * 0.001 * spec.hop_ms);
  const length = Math.trunc(spec.sample_rate * 0.001 * spec.window_ms);
  const padded = 2 ** Math.ceil(Math.log2(length));
  const count = Math.trunc((wave.length + Math.trunc(shift / 2)) / shift);
  const window = Float64Array.from({ length }, (_, i) => (0.5 - 0.5 * Math.cos((2 * Math.PI * i) / (length - 1))) ** 0.85);
  const banks = melBanks(spec, padded);
  const frames = [];
  for (let frame = 0; frame < Math.min(count, spec.frames); frame++) {
    const start = Math.trunc(shift * frame + shift / 2) - Math.trunc(length / 2);
    const re = new Float64Array(padded), im = new Float64Array(padded);
    for (let i = 0; i < length; i++) {
      let at = start + i;
      while (at < 0 || at >= wave.length) at = at < 0 ? -at - 1 : 2 * wave.length - 1 - at;
      re[i] = wave[at] * 32768;
    }
    let mean = 0;
    for (let i = 0; i < length; i++) mean += re[i] / length;
    for (let i = 0; i < length; i++) re[i] -= mean;
    for (let i = length - 1; i > 0; i--) re[i] -= 0.97 * re[i - 1];
    re[0] -= 0.97 * re[0];
    for (let i = 0; i < length; i++) re[i] *= window[i];
    fft(re, im);
    frames.push(banks.map((bank) => {
      let energy = 0;
      for (const [bin, weight] of bank) energy += weight * (re[bin] ** 2 + im[bin] ** 2);
      return Math.log(Math.max(energy, EPSILON));
    }));
  }
  return frames;
}

function melBanks(spec, padded) {
  const mel = (hertz) => 1127 * Math.log(1 + hertz / 700);
  const low = mel(spec.low_hz ?? 20), delta = (mel(spec.high_hz ?? spec.sample_rate / 2) - low) / (spec.mels + 1);
  return Array.from({ length: spec.mels }, (_, band) => {
    const left = low + band * delta, centre = left + delta, right = centre + delta;
    const bank = [];
    for (let bin = 0; bin < padded / 2; bin++) {
      const at = mel((spec.sample_rate / padded) * bin);
      if (at > left && at < right) bank.push([bin, at <= centre ? (at - left) / delta : (right - at) / delta]);
    }
    return bank;
  });
}

/** Log-mel of centred frames, as mmedge/preprocess/centred.py: [frames][mels]. */
function centredMel(spec, preset, wave) {
  const hop = Math.max(1, even((spec.hop_ms * spec.sample_rate) / 1000)), length = even((spec.window_ms * spec.sample_rate) / 1000);
  const size = spec.fft ?? length, offset = Math.floor((size - length) / 2);
  const window = Float64Array.from({ length }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / length));
  const banks = triangles(spec, preset, size), last = wave.length - 1;
  const at = (place) => {
    if (place >= 0 && place <= last) return wave[place];
    if (!preset.reflects) return 0;
    const round = last ? ((place % (2 * last)) + 2 * last) % (2 * last) : 0;
    return wave[Math.min(round, 2 * last - round)];
  };
  const count = Math.min(spec.frames + preset.oneMore, Math.floor((wave.length + 2 * Math.floor(size / 2) - size) / hop) + 1);
  let loudest = -Infinity;
  const frames = Array.from({ length: count }, (_, frame) => {
    const values = new Float64Array(size);
    for (let i = 0; i < length; i++) values[offset + i] = at(frame * hop + offset + i - Math.floor(size / 2)) * window[i];
    const power = spectrum(values);
    return banks.map((bank) => {
      const energy = Math.log10(Math.max(1e-10, bank.reduce((sum, [bin, weight]) => sum + weight * power[bin], 0)));
      loudest = Math.max(loudest, energy);
      return energy;
    });
  });
  const floor = loudest - 8 * preset.clipped;
  return frames.slice(0, spec.frames).map((frame) => frame.map((energy) => preset.scale(preset.clipped ? Math.max(energy, floor) : energy)));
}

const SLANEY = {
  mel: (hz) => (hz < 1000 ? (3 * hz) / 200 : 15 + (27 * Math.log(hz / 1000)) / Math.log(6.4)),
  hz: (mel) => (mel < 15 ? (200 * mel) / 3 : 1000 * Math.exp(((mel - 15) * Math.log(6.4)) / 27)),
  height: (low, high) => 2 / (high - low),
};
const HTK = { mel: (hz) => 2595 * Math.log10(1 + hz / 700), hz: (mel) => 700 * (10 ** (mel / 2595) - 1), height: () => 1 };
/** Log-mel by whom; `clipped`: within 80 dB of the loudest; `oneMore`: the frame behind the end counts for it. */
const PRESETS = {
  kaldi: null,
  whisper: { bank: SLANEY, reflects: true, oneMore: 0, clipped: 1, scale: (energy) => (energy + 4) / 4 },
  torchaudio: { bank: HTK, reflects: true, oneMore: 1, clipped: 0, scale: (energy) => 10 * energy },
  librosa: { bank: SLANEY, reflects: false, oneMore: 1, clipped: 1, scale: (energy) => 10 * energy },
};

/** Triangles over the frequencies of a transform of `size` points, equally wide in mel: [[bin, weight], ...] each. */
function triangles(spec, { bank }, size) {
  const low = bank.mel(spec.low_hz ?? 0), step = (bank.mel(spec.high_hz ?? spec.sample_rate / 2) - low) / (spec.mels + 1);
  const edges = Array.from({ length: spec.mels + 2 }, (_, i) => bank.hz(low + i * step));
  return Array.from({ length: spec.mels }, (_, band) => {
    const [left, centre, right] = edges.slice(band, band + 3), found = [];
    for (let bin = 0; bin <= size / 2; bin++) {
      const hz = (bin * spec.sample_rate) / size;
      const weight = Math.min((hz - left) / (centre - left), (right - hz) / (right - centre));
      if (weight > 0) found.push([bin, weight * bank.height(left, right)]);
    }
    return found;
  });
}

/** Powers of a real signal's frequencies; sizes that are no power of two by their definition, from a table of cosines. */
function spectrum(values) {
  const size = values.length, half = Math.floor(size / 2) + 1;
  if ((size & (size - 1)) === 0) {
    const im = new Float64Array(size);
    fft(values, im);
    return Float64Array.from({ length: half }, (_, bin) => values[bin] ** 2 + im[bin] ** 2);
  }
  const cos = Float64Array.from({ length: size }, (_, i) => Math.cos((2 * Math.PI * i) / size));
  const sin = Float64Array.from({ length: size }, (_, i) => Math.sin((2 * Math.PI * i) / size));
  return Float64Array.from({ length: half }, (_, bin) => {
    let re = 0, im = 0;
    for (let i = 0, at = 0; i < size; i++, at = (at + bin) % size) {
      re += values[i] * cos[at];
      im -= values[i] * sin[at];
    }
    return re ** 2 + im ** 2;
  });
}

/** In-place radix-2 FFT (Cooley & Tukey 1965). */
function fft(re, im) {
  const n = re.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [re[i], re[j]] = [re[j], re[i]];
      [im[i], im[j]] = [im[j], im[i]];
    }
  }
  for (let size = 2; size <= n; size *= 2) {
    for (let start = 0; start < n; start += size) {
      for (let k = 0; k < size / 2; k++) {
        const angle = (-2 * Math.PI * k) / size, c = Math.cos(angle), s = Math.sin(angle);
        const a = start + k, b = a + size / 2;
        const tr = re[b] * c - im[b] * s, ti = re[b] * s + im[b] * c;
        re[b] = re[a] - tr; im[b] = im[a] - ti;
        re[a] += tr; im[a] += ti;
      }
    }
  }
}
