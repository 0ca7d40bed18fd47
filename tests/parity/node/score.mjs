// Score rows with a scorer.onnx in onnxruntime-web (WebAssembly); there is no anomgan here.
//
//     node score.mjs scorer.onnx rows.json > scores.json
//
// rows.json: { "numeric": [[number or null, ...], ...], "categorical": [[text, ...], ...],
//              "false_alarm_rate": number }; each part only where it is needed.
// scores.json: { "score", "p_value", "is_anomaly", "contributions", "inputs" }.

import { readFile } from "node:fs/promises";
import process from "node:process";

import * as ort from "onnxruntime-web";

const [modelPath, rowsPath] = process.argv.slice(2);
if (!modelPath || !rowsPath) {
  process.stderr.write("usage: node score.mjs scorer.onnx rows.json\n");
  process.exit(2);
}

ort.env.wasm.numThreads = 1;

const rows = JSON.parse(await readFile(rowsPath, "utf8"));
const session = await ort.InferenceSession.create(await readFile(modelPath), {
  executionProviders: ["wasm"],
  logSeverityLevel: 3, // errors only: that false_alarm_rate may be fed is no cause for a warning
});

const feeds = {};
if (rows.numeric) {
  // A missing number is NaN, which JSON cannot hold: null stands for it.
  const cells = rows.numeric.flat().map((cell) => (cell === null ? NaN : cell));
  const shape = [rows.numeric.length, rows.numeric[0]?.length ?? 0];
  feeds.numeric = new ort.Tensor("float64", Float64Array.from(cells), shape);
}
if (rows.categorical) {
  const shape = [rows.categorical.length, rows.categorical[0]?.length ?? 0];
  feeds.categorical = new ort.Tensor("string", rows.categorical.flat(), shape);
}

const outputs = await session.run(feeds);
const p_value = Array.from(outputs.p_value.data);
// The JavaScript API cannot feed an optional input such as false_alarm_rate: decide here instead.
const is_anomaly =
  rows.false_alarm_rate === undefined
    ? Array.from(outputs.is_anomaly.data, Boolean)
    : p_value.map((p) => p <= Math.fround(rows.false_alarm_rate));
const { data, dims } = outputs.contributions;
const width = dims[1];
const contributions = Array.from({ length: dims[0] }, (_, row) =>
  Array.from(data.subarray(row * width, (row + 1) * width)),
);
process.stdout.write(
  JSON.stringify({
    score: Array.from(outputs.score.data),
    p_value,
    is_anomaly,
    contributions,
    inputs: session.inputNames,
  }),
);
