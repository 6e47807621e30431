// The page: a bundle's manifest and graph, its preprocessing, onnxruntime-web, an answer.
import * as ort from "./ort.wasm.min.mjs";
import { audio, headsOf, heated, image, predicted, samplesOf, tabular } from "./preprocess.js";

ort.env.wasm.numThreads = 1; // threads need cross-origin isolation, which a plain server does not give

/** Load the bundle in a folder; the engine's predict({modality: Blob | cells}) -> {label | labels, probabilities}, {value}, or one of them a head. */
export async function load(folder) {
  const { meta } = await (await fetch(`${folder}/manifest.json`)).json();
  const graph = await (await fetch(`${folder}/model.onnx`)).arrayBuffer();
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  const contract = heated(meta.contract, meta.targets?.["onnxruntime-cpu"]?.temperatures);
  return { meta, predict: (given) => predict(session, contract, given) };
}

async function predict(session, contract, given) {
  const names = Object.keys(contract.modalities);
  const feed = { present: new ort.Tensor("bool", names.map((name) => given[name] !== undefined), [1, names.length]) };
  for (const [name, spec] of Object.entries(contract.modalities)) {
    const shape = shapeOf(spec);
    const size = shape.reduce((product, axis) => product * axis, 1);
    if (spec.kind === "text" && given[name] === undefined) {
      feed[name] = new ort.Tensor("int64", new BigInt64Array(size), [1, ...shape]);
      continue;
    }
    const values = given[name] === undefined ? new Float32Array(size) : await tensor(spec, given[name]);
    if (values.length !== size) throw new Error(`${name} has ${values.length} values, the model takes ${size}`);
    feed[name] = new ort.Tensor("float32", values, [1, ...shape]);
  }
  const outputs = await session.run(feed);
  return predicted(contract, Object.fromEntries(Object.keys(headsOf(contract)).map((name) => [name, outputs[name].data])));
}

/** One input's tensor. What the Python runtime can do and this page cannot is refused, never done otherwise. */
function tensor(spec, value) {
  if (spec.box) throw new Error("an image's box is not part of this page: cut it out first");
  if (spec.kind === "image") return image(spec, value);
  if (spec.kind === "audio") return audio(spec, value);
  if (spec.kind === "tabular") return tabular(spec, value);
  throw new Error(`inputs of the kind ${spec.kind} are not part of this page; the bundle's model.onnx takes their tensors`);
}

/** What is typed for a table: cells with commas, an empty one is missing. */
function cells(spec, text) {
  return text.split(",").map((cell, index) => (cell.trim() === "" ? null : index < spec.columns.length ? Number(cell) : cell.trim()));
}

function shapeOf(spec) {
  if (spec.kind === "image") return [spec.channels, spec.height, spec.width];
  if (spec.kind === "audio" && spec.features === "waveform") return [samplesOf(spec)];
  if (spec.kind === "audio") return [1, spec.features === "mfcc" ? spec.coefficients : spec.mels, spec.frames];
  if (spec.kind === "text") return [spec.length];
  if (spec.kind === "sensor") return [spec.channels, spec.length];
  if (spec.kind === "array") return spec.shape;
  const known = (spec.categorical ?? []).map((name) => (spec.encoding === "ordinal" ? 1 : 1 + (spec.categories?.[name] ?? []).length));
  return [spec.columns.length * (spec.missing_indicator ? 2 : 1) + known.reduce((sum, size) => sum + size, 0)];
}

async function page() {
  const engine = await load("bundle");
  document.getElementById("name").textContent = engine.meta.name;
  const given = {};
  const answer = document.getElementById("answer");
  for (const [name, spec] of Object.entries(engine.meta.contract.modalities)) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    input.type = spec.kind === "tabular" ? "text" : "file";
    label.append(`${name}: `, input);
    document.getElementById("inputs").append(label);
    input.addEventListener("change", async () => {
      given[name] = input.type === "file" ? input.files[0] : cells(spec, input.value);
      try {
        answer.textContent = JSON.stringify(await engine.predict(given), null, 2);
      } catch (error) {
        answer.textContent = `error: ${error.message}`;
      }
    });
  }
}

if (document.getElementById("inputs")) page();
