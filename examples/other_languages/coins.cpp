// Coins, a small game that learns beside Background Training. C++17, no libraries.  g++ -std=c++17 -O2 coins.cpp -o coins
//   coins ROOT [GAMES]                     play, and write an episode per game into ROOT/data/buffer
//   coins --probabilities MODEL < LINES    a line: 4 numbers of a state and 4 of a mask; prints 4 probabilities
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <map>
#include <random>
#include <sstream>
#include <thread>
#include <vector>
namespace fs = std::filesystem;
using std::string, std::vector;

// --- The game: 40 steps on 5 x 5 fields. Each coin earns 1, each step costs 0.05; moves off the board are illegal. ---
const int STEPS = 40, SIZE = 5, S = 4, A = 4, MOVES[A][2] = {{-1, 0}, {1, 0}, {0, -1}, {0, 1}};
std::random_device device;
std::mt19937_64 generator(device() + (uint64_t(device()) << 32));
struct Game {
    int x = 2, y = 2, coin_x = 0, coin_y = 0;
    vector<float> state() { return {x / 2.f - 1, y / 2.f - 1, (coin_x - x) / 4.f, (coin_y - y) / 4.f}; }
    bool legal(int a) { int u = x + MOVES[a][0], v = y + MOVES[a][1]; return u >= 0 && u < SIZE && v >= 0 && v < SIZE; }
    float step(int action) {
        x += MOVES[action][0], y += MOVES[action][1];
        bool found = x == coin_x && y == coin_y;
        while (x == coin_x && y == coin_y) coin_x = generator() % SIZE, coin_y = generator() % SIZE;
        return found ? 0.95f : -0.05f;
    }
};

// --- Writing: an .npz is a zip archive of .npy members. (A little-endian machine is assumed.) ---
template <class T> string raw(const vector<T>& values) { return string((const char*)values.data(), values.size() * sizeof(T)); }
string number(uint32_t value, int bytes) { return string((const char*)&value, bytes); }
uint32_t crc32(const string& bytes) {
    uint32_t crc = ~0u;
    for (unsigned char byte : bytes) {
        crc ^= byte;
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >> 1) ^ 0xedb88320u : crc >> 1;
    }
    return ~crc;
}
struct Zip { // stored; sizes and checksum stand in front of each member
    string bodies, index;
    int count = 0;
    void put(const string& name, const string& descr, const string& shape, const string& data) {
        string header = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (" + shape + "), }";
        header += string(63 - (10 + header.size()) % 64, ' ') + "\n"; // magic, version, length: 10 bytes; all: a multiple of 64
        string body = string("\x93NUMPY\x01\0", 8) + number(header.size(), 2) + header + data, file = name + ".npy";
        string shared = number(20, 2) + number(0, 4) + number(0, 2) + number(33, 2) // version, flags, method, time; 1 January 1980
            + number(crc32(body), 4) + number(body.size(), 4) + number(body.size(), 4) + number(file.size(), 2) + number(0, 2);
        index += string("PK\1\2") + number(20, 2) + shared + string(10, '\0') + number(bodies.size(), 4) + file;
        bodies += "PK\3\4" + shared + file + body;
        count++;
    }
    void text(const string& name, const string& ascii) { // 4 bytes per letter
        put(name, "<U" + std::to_string(ascii.size()), "", raw(vector<uint32_t>(ascii.begin(), ascii.end())));
    }
    string bytes() {
        return bodies + index + "PK\5\6" + number(0, 4) + number(count, 2) + number(count, 2) + number(index.size(), 4)
            + number(bodies.size(), 4) + number(0, 2);
    }
};

// --- Reading: members may be stored or deflated ---
string inflate(const string& in) { // RFC 1951; enough checks to throw, not crash, on a file that is damaged
    size_t at = 0;
    auto bits = [&](int n) {
        uint32_t value = 0;
        for (int i = 0; i < n; i++, at++) value |= uint32_t((uint8_t)in.at(at >> 3) >> (at & 7) & 1) << i;
        return value;
    };
    struct Code { int count[16] = {}; vector<int> symbols; };
    auto code = [](const vector<int>& lengths) {
        Code made;
        for (int length = 1; length < 16; length++)
            for (size_t symbol = 0; symbol < lengths.size(); symbol++)
                if (lengths[symbol] == length) made.count[length]++, made.symbols.push_back(symbol);
        return made;
    };
    auto next = [&](const Code& from) {
        int value = 0, first = 0, index = 0;
        for (int length = 1; length < 16; length++) {
            value |= bits(1);
            if (value - from.count[length] < first) return from.symbols.at(index + value - first);
            index += from.count[length], first = (first + from.count[length]) << 1, value <<= 1;
        }
        throw std::runtime_error("damaged deflate data");
    };
    string out;
    for (bool last = false; !last;) {
        last = bits(1);
        int kind = bits(2);
        if (kind == 0) {
            at = (at + 7) / 8 * 8;
            int size = bits(16);
            bits(16);
            out += in.substr(at / 8, size), at += 8 * size;
            continue;
        }
        vector<int> lengths(288, 8), distances(30, 5);
        for (int i = 144; i < 280; i++) lengths[i] = i < 256 ? 9 : 7;
        if (kind == 2) {
            int literals = bits(5) + 257, far = bits(5) + 1, small = bits(4) + 4;
            vector<int> order = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}, sizes(19), all;
            for (int i = 0; i < small; i++) sizes[order[i]] = bits(3);
            for (Code coded = code(sizes); (int)all.size() < literals + far;) {
                int symbol = next(coded), before = all.empty() ? 0 : all.back();
                if (symbol < 16) all.push_back(symbol);
                else if (symbol == 16) all.insert(all.end(), 3 + bits(2), before);
                else all.insert(all.end(), symbol == 17 ? 3 + bits(3) : 11 + bits(7), 0);
            }
            lengths.assign(all.begin(), all.begin() + literals), distances.assign(all.begin() + literals, all.end());
        }
        Code letters = code(lengths), offsets = code(distances);
        for (int symbol; (symbol = next(letters)) != 256;) {
            if (symbol < 256) { out += char(symbol); continue; }
            int s = symbol - 257, more = s < 8 || s == 28 ? 0 : (s - 4) / 4;
            int size = s == 28 ? 258 : s < 8 ? s + 3 : ((4 + s % 4) << more) + 3 + bits(more), d = next(offsets);
            int extra = d < 4 ? 0 : d / 2 - 1, back = d < 4 ? d + 1 : ((2 + d % 2) << extra) + 1 + bits(extra);
            for (int i = 0; i < size; i++) out += out.at(out.size() - back);
        }
    }
    return out;
}
uint32_t at(const string& bytes, size_t place, int size) {
    uint32_t value = 0;
    for (int i = 0; i < size; i++) value |= uint32_t((uint8_t)bytes.at(place + i)) << 8 * i;
    return value;
}
struct Model { std::map<string, vector<float>> arrays; int version = 0; } model;
Model read(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    string bytes{std::istreambuf_iterator<char>(file), {}};
    Model found;
    size_t end = bytes.rfind("PK\5\6"), place = at(bytes, end + 16, 4);
    for (int left = at(bytes, end + 10, 2); left > 0; left--) {
        size_t local = at(bytes, place + 42, 4), start = local + 30 + at(bytes, local + 26, 2) + at(bytes, local + 28, 2);
        string name = bytes.substr(place + 46, at(bytes, place + 28, 2)), data = bytes.substr(start, at(bytes, place + 20, 4));
        bool deflated = at(bytes, place + 10, 2) == 8;
        place += 46 + name.size() + at(bytes, place + 30, 2) + at(bytes, place + 32, 2);
        bool layer = name.size() == 6 && (name[0] == 'W' || name[0] == 'b');
        if (!layer && name != "version.npy") continue;
        if (deflated) data = inflate(data);
        size_t from = data.at(6) == 1 ? 10 + at(data, 8, 2) : 12 + at(data, 8, 4);
        if (!layer) { found.version = at(data, from, 4); continue; }
        if (data.find("'<f4'") > from || data.find("'fortran_order': False") > from) throw std::runtime_error(name + ": not float32");
        vector<float>& values = found.arrays[name.substr(0, 2)];
        values.resize((data.size() - from) / 4);
        std::memcpy(values.data(), data.data() + from, values.size() * 4);
    }
    return found;
}

// --- Playing ---
vector<float> layer(const vector<float>& input, const char* weights_name, const char* bias_name) {
    const vector<float>& weights = model.arrays.at(weights_name);
    vector<float> output = model.arrays.at(bias_name);
    for (size_t i = 0; i < input.size(); i++)
        for (size_t o = 0; o < output.size(); o++) output[o] += input[i] * weights.at(i * output.size() + o);
    return output;
}
vector<float> tanh_of(vector<float> values) { for (float& value : values) value = std::tanh(value); return values; }
vector<double> probabilities(const vector<float>& state, const vector<char>& mask) { // over the legal actions; no model: all alike
    vector<float> logits(A);
    if (!model.arrays.empty()) logits = layer(tanh_of(layer(tanh_of(layer(state, "W1", "b1")), "W2", "b2")), "W3", "b3");
    double top = -INFINITY, sum = 0;
    vector<double> chances(A);
    for (int a = 0; a < A; a++) if (mask[a]) top = std::max<double>(top, logits[a]);
    for (int a = 0; a < A; a++) sum += chances[a] = mask[a] ? std::exp(logits[a] - top) : 0;
    for (double& chance : chances) chance /= sum;
    return chances;
}
float play(const fs::path& buffer) { // one game, delivered as one episode
    Game game;
    vector<float> states, rewards, log_probs;
    vector<int32_t> actions;
    vector<char> masks;
    float score = 0;
    for (int t = 0; t < STEPS; t++) {
        vector<float> state = game.state();
        vector<char> mask;
        for (int a = 0; a < A; a++) mask.push_back(game.legal(a));
        vector<double> chances = probabilities(state, mask);
        int action = std::discrete_distribution<int>(chances.begin(), chances.end())(generator);
        states.insert(states.end(), state.begin(), state.end()), masks.insert(masks.end(), mask.begin(), mask.end());
        actions.push_back(action), log_probs.push_back(std::log(chances[action])), rewards.push_back(game.step(action));
        score += rewards.back();
    }
    std::ostringstream id, meta;
    id.imbue(std::locale::classic()), meta.imbue(std::locale::classic()); // numbers with a point, whatever the locale
    id << "coins_cpp_" << std::hex << generator();
    meta << "{\"game\": \"Coins\", \"result\": \"" << (score > 0 ? "Victory" : "Defeat") << "\", \"score\": " << score
         << ", \"action_count\": 4, \"action_names\": [\"left\", \"right\", \"up\", \"down\"], "
         << "\"state_names\": [\"x\", \"y\", \"coin_x\", \"coin_y\"]}";
    Zip zip;
    zip.put("states", "<f4", "40, 4", raw(states));
    zip.put("actions", "<i4", "40,", raw(actions));
    zip.put("rewards", "<f4", "40,", raw(rewards));
    zip.put("log_probs", "<f4", "40,", raw(log_probs));
    zip.put("action_mask", "|b1", "40, 4", raw(masks));
    zip.put("policy_version", "<i4", "", raw(vector<int32_t>{model.version}));
    zip.put("terminated", "|b1", "", string(1, '\0')); // the clock ended the game, not a win or a loss
    zip.put("final_state", "<f4", "4,", raw(game.state()));
    zip.text("episode_id", id.str());
    zip.text("meta", meta.str());
    fs::path part = buffer / ("." + id.str() + ".part");
    std::ofstream file(part, std::ios::binary);
    file << zip.bytes();
    file.close();
    if (!file) throw std::runtime_error("could not write " + part.string());
    fs::rename(part, buffer / (id.str() + ".npz")); // atomic: the learner never sees half a file
    return score;
}
int main(int count, char** arguments) {
    std::ios::sync_with_stdio(false);
    if (count > 2 && string(arguments[1]) == "--probabilities") {
        model = read(arguments[2]);
        std::cout << std::setprecision(12);
        for (vector<float> numbers(S + A); std::cin >> numbers[0];) {
            for (int i = 1; i < S + A; i++) std::cin >> numbers[i];
            for (double chance : probabilities({numbers.begin(), numbers.begin() + S}, {numbers.begin() + S, numbers.end()}))
                std::cout << chance << " ";
            std::cout << "\n";
        }
        return 0;
    }
    if (count < 2) return std::cerr << "usage: coins ROOT [GAMES]\n", 2;
    fs::path root = arguments[1], buffer = root / "data" / "buffer", file = root / "models" / "rl_agent_model.npz";
    fs::create_directories(buffer);
    fs::file_time_type seen{};
    float sum = 0;
    for (int games = 1; games <= (count > 2 ? std::stoi(arguments[2]) : 300); games++) {
        std::error_code missing; // before the first batch there is no model
        fs::file_time_type found = fs::last_write_time(file, missing);
        if (!missing && found != seen) {
            try { model = read(file), seen = found; }
            catch (const std::exception& error) { std::cerr << "continuing with model " << model.version << ": " << error.what() << "\n"; }
        }
        sum += play(buffer);
        // This game is far faster than a learner, and old games teach little: wait for it, at most 5 s.
        auto waiting = [&] { return std::distance(fs::directory_iterator(buffer), fs::directory_iterator()); };
        for (int tries = 0; tries < 50 && waiting() > 60; tries++) std::this_thread::sleep_for(std::chrono::milliseconds(100));
        if (games % 50 > 0) continue;
        std::cout << "games " << games << "  mean return " << std::fixed << std::setprecision(2) << sum / 50 << "  model " << model.version << std::endl;
        sum = 0;
    }
}
