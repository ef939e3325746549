// Runs one model of a folder in its runtime, under Node: {folder, file, feeds} as JSON in, output → numbers as JSON out.
import { readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";

const { folder, file, feeds } = JSON.parse(await text(process.stdin));
const at = (path) => new URL(path, `${folder}/`);
try {
  const ort = await import(at("runtime/ort.js"));
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = new Uint8Array(await readFile(at("runtime/ort.wasm"))).buffer;
  ort.env.wasm.wasmPaths = { mjs: at("runtime/ort-wasm.js").href };
  const session = await ort.InferenceSession.create(new Uint8Array(await readFile(at(file))), { executionProviders: ["wasm"] });
  const arrays = { int64: (data) => BigInt64Array.from(data, BigInt), float32: Float32Array.from.bind(Float32Array) };
  const inputs = Object.entries(feeds).map(([name, { type, dims, data }]) => [name, new ort.Tensor(type, arrays[type](data), dims)]);
  const found = await session.run(Object.fromEntries(inputs));
  const outputs = Object.entries(found).map(([name, tensor]) => [name, Array.from(tensor.data, Number)]);
  process.stdout.write(JSON.stringify(Object.fromEntries(outputs)), () => process.exit(0));
} catch (error) {
  process.stderr.write(String(error.message ?? error), () => process.exit(1));
}
