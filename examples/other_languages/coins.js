// Coins, a small game that learns beside Background Training. Node 18 or newer, no packages.
//   node coins.js ROOT [GAMES]                     play, and write an episode per game into ROOT/data/buffer
//   node coins.js --probabilities MODEL < LINES    a line: 4 numbers of a state and 4 of a mask; prints 4 probabilities
'use strict';
const fs = require('fs'), path = require('path'), zlib = require('zlib'), crypto = require('crypto');

// --- The game: 40 steps on 5 x 5 fields. Each coin earns 1, each step costs 0.05; moves off the board are illegal. ---
const ACTIONS = ['left', 'right', 'up', 'down'], FEATURES = ['x', 'y', 'coin_x', 'coin_y'], STEPS = 40, SIZE = 5;
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const MOVES = [[-1, 0], [1, 0], [0, -1], [0, 1]];
const field = () => [0, 1].map(() => Math.floor(Math.random() * SIZE));
const found = ({ me, coin }) => me[0] === coin[0] && me[1] === coin[1];
const state = ({ me, coin }) => [me[0] / 2 - 1, me[1] / 2 - 1, (coin[0] - me[0]) / 4, (coin[1] - me[1]) / 4];
const legal = ({ me }) => MOVES.map((move) => move.every((d, axis) => me[axis] + d >= 0 && me[axis] + d < SIZE));
function step(game, action) {
  game.me = game.me.map((value, axis) => value + MOVES[action][axis]);
  const reward = found(game) ? 0.95 : -0.05;
  while (found(game)) game.coin = field();
  return reward;
}

// --- Writing: an .npz is a zip archive of .npy members ---
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});
const crc32 = (bytes) => ~bytes.reduce((crc, byte) => CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8), ~0) >>> 0;
function npy(descr, shape, data) { // data: a typed array, which is little-endian wherever Node runs
  const tuple = `(${shape.join(', ')}${shape.length === 1 ? ',' : ''})`;
  let header = `{'descr': '${descr}', 'fortran_order': False, 'shape': ${tuple}, }`;
  header += ' '.repeat(63 - ((10 + header.length) % 64)) + '\n'; // magic, version and length are 10 bytes; all: a multiple of 64
  const start = Buffer.from([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, header.length & 255, header.length >> 8]); // \x93NUMPY
  return Buffer.concat([start, Buffer.from(header, 'latin1'), Buffer.from(data.buffer, data.byteOffset, data.byteLength)]);
}
function textNpy(text) { // one number of 4 bytes per letter
  const codes = Uint32Array.from([...text], (letter) => letter.codePointAt(0));
  return npy(`<U${codes.length}`, [], codes);
}
function zip(members) { // stored; sizes and checksum stand in front of each member
  const bodies = [], directory = [];
  let offset = 0;
  for (const [member, body] of Object.entries(members)) {
    const name = Buffer.from(member + '.npy'), fixed = Buffer.alloc(26); // the fields that both headers share
    fixed.writeUInt16LE(20, 0); fixed.writeUInt16LE(33, 8); // version needed; 1 January 1980
    fixed.writeUInt32LE(crc32(body), 10); fixed.writeUInt32LE(body.length, 14); fixed.writeUInt32LE(body.length, 18);
    fixed.writeUInt16LE(name.length, 22);
    const place = Buffer.alloc(14); place.writeUInt32LE(offset, 10);
    bodies.push(Buffer.from('PK\x03\x04'), fixed, name, body);
    directory.push(Buffer.from('PK\x01\x02\x14\x00'), fixed, place, name);
    offset += 30 + name.length + body.length;
  }
  const index = Buffer.concat(directory), end = Buffer.alloc(22), count = Object.keys(members).length;
  end.write('PK\x05\x06'); end.writeUInt16LE(count, 8); end.writeUInt16LE(count, 10);
  end.writeUInt32LE(index.length, 12); end.writeUInt32LE(offset, 16);
  return Buffer.concat([...bodies, index, end]);
}
function deliver(root, episode) {
  const buffer = path.join(root, 'data', 'buffer'), T = episode.actions.length;
  const id = `coins_js_${crypto.randomBytes(8).toString('hex')}`, score = sum(episode.rewards);
  const names = { action_count: 4, action_names: ACTIONS, state_names: FEATURES };
  const meta = { game: 'Coins', result: score > 0 ? 'Victory' : 'Defeat', score, ...names };
  const bytes = zip({
    states: npy('<f4', [T, 4], Float32Array.from(episode.states.flat())),
    actions: npy('<i4', [T], Int32Array.from(episode.actions)),
    rewards: npy('<f4', [T], Float32Array.from(episode.rewards)),
    log_probs: npy('<f4', [T], Float32Array.from(episode.logProbs)),
    action_mask: npy('|b1', [T, 4], Uint8Array.from(episode.masks.flat())),
    policy_version: npy('<i4', [], Int32Array.of(episode.version)),
    terminated: npy('|b1', [], Uint8Array.of(0)), // the clock ended the game, not a win or a loss
    final_state: npy('<f4', [4], Float32Array.from(episode.finalState)),
    episode_id: textNpy(id),
    meta: textNpy(JSON.stringify(meta)),
  });
  fs.mkdirSync(buffer, { recursive: true });
  const part = path.join(buffer, `.${id}.part`);
  fs.writeFileSync(part, bytes, { flush: true });
  fs.renameSync(part, path.join(buffer, `${id}.npz`)); // atomic: the learner never sees half a file
  return buffer;
}
function waitForLearner(buffer) { // this game is far faster than a learner, and old games teach little; at most 5 s
  const clock = new Int32Array(new SharedArrayBuffer(4));
  for (let tries = 0; tries < 50 && fs.readdirSync(buffer).length > 60; tries++) Atomics.wait(clock, 0, 0, 100);
}

// --- Playing: the policy is six arrays of the model file ---
function unzip(bytes) { // by the directory at the end; members may be stored or deflated
  const members = {}, end = bytes.lastIndexOf('PK\x05\x06', undefined, 'latin1');
  let at = bytes.readUInt32LE(end + 16);
  for (let left = bytes.readUInt16LE(end + 10); left > 0; left--) {
    const nameEnd = at + 46 + bytes.readUInt16LE(at + 28), place = bytes.readUInt32LE(at + 42);
    const start = place + 30 + bytes.readUInt16LE(place + 26) + bytes.readUInt16LE(place + 28);
    const packed = bytes.subarray(start, start + bytes.readUInt32LE(at + 20)), deflated = bytes.readUInt16LE(at + 10) === 8;
    members[bytes.toString('utf8', at + 46, nameEnd)] = deflated ? zlib.inflateRawSync(packed) : packed;
    at = nameEnd + bytes.readUInt16LE(at + 30) + bytes.readUInt16LE(at + 32);
  }
  return members;
}
function floats(member) { // float32 in C order, which is how models are written
  const start = member[6] === 1 ? 10 + member.readUInt16LE(8) : 12 + member.readUInt32LE(8);
  if (!/'<f4'.*'fortran_order': False/.test(member.toString('latin1', 0, start))) throw new Error('not float32 in C order');
  return Float32Array.from({ length: (member.length - start) / 4 }, (_, index) => member.readFloatLE(start + 4 * index));
}
function readModel(file) {
  const members = unzip(fs.readFileSync(file)), version = members['version.npy']; // an int64
  const layers = [1, 2, 3].map((n) => ({ weights: floats(members[`W${n}.npy`]), bias: floats(members[`b${n}.npy`]) }));
  return { version: version.readInt32LE(version.length - 8), layers };
}
const layer = ({ weights, bias }, input) =>
  Array.from(bias, (start, out) => input.reduce((total, value, row) => total + value * weights[row * bias.length + out], start));
let model = null, seen = '';
function probabilities(numbers, mask) { // a softmax over the legal actions; without a model, each is equally likely
  const [first, second, third] = model ? model.layers : [];
  const logits = model ? layer(third, layer(second, layer(first, numbers).map(Math.tanh)).map(Math.tanh)) : mask.map(() => 0);
  const top = Math.max(...logits.filter((_, action) => mask[action]));
  const powers = logits.map((logit, action) => (mask[action] ? Math.exp(logit - top) : 0));
  return powers.map((power) => power / sum(powers));
}
function draw(chances) {
  let left = Math.random(), chosen = -1;
  for (let action = 0; action < chances.length && left >= 0; action++) if (chances[action] > 0) left -= chances[(chosen = action)];
  return chosen;
}
function refresh(file) { // between games: read the model again if the learner has replaced it
  try {
    const { mtimeMs, size, ino } = fs.statSync(file), found = `${mtimeMs} ${size} ${ino}`;
    if (found !== seen) [model, seen] = [readModel(file), found];
  } catch (error) {
    if (error.code !== 'ENOENT') console.error(`continuing with model ${model ? model.version : 0}: ${error.message}`);
  }
}
function playOne() {
  const game = { me: [2, 2], coin: [0, 0] }, version = model ? model.version : 0;
  const episode = { states: [], actions: [], rewards: [], logProbs: [], masks: [], version };
  for (let t = 0; t < STEPS; t++) {
    const numbers = state(game), mask = legal(game), chances = probabilities(numbers, mask), action = draw(chances);
    episode.states.push(numbers); episode.masks.push(mask); episode.actions.push(action);
    episode.logProbs.push(Math.log(chances[action])); episode.rewards.push(step(game, action));
  }
  return { ...episode, finalState: state(game) };
}
const [argument, second] = process.argv.slice(2);
if (argument === '--probabilities') {
  model = readModel(second);
  for (const line of fs.readFileSync(0, 'utf8').trim().split('\n')) {
    const numbers = line.split(' ').map(Number);
    console.log(probabilities(numbers.slice(0, 4), numbers.slice(4)).join(' '));
  }
} else if (argument) {
  const root = argument, returns = [];
  for (let number = 1; number <= (second || 300); number++) {
    refresh(path.join(root, 'models', 'rl_agent_model.npz'));
    const episode = playOne();
    returns.push(sum(episode.rewards));
    waitForLearner(deliver(root, episode));
    if (number % 50 > 0) continue;
    console.log(`games ${number}  mean return ${(sum(returns.splice(0)) / 50).toFixed(2)}  model ${model ? model.version : 0}`);
  }
} else {
  console.error('usage: node coins.js ROOT [GAMES]');
  process.exitCode = 2;
}
