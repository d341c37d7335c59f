// Coins, a small game that learns beside Background Training. .NET or Mono, no packages.
//   mcs -r:System.IO.Compression.dll Coins.cs && mono Coins.exe ROOT [GAMES]   play, an episode per game into ROOT/data/buffer
//   mono Coins.exe --probabilities MODEL < LINES     a line: 4 numbers of a state and 4 of a mask; prints 4 probabilities
using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.IO.Compression;
using System.Linq;
using System.Text;
using System.Threading;

public class Coins {
    // --- The game: 40 steps on 5 x 5 fields. Each coin earns 1, each step costs 0.05; moves off the board are illegal. ---
    const int Steps = 40, Size = 5, S = 4, A = 4;
    static readonly int[][] Moves = { new[] {-1, 0}, new[] {1, 0}, new[] {0, -1}, new[] {0, 1} };
    static readonly Random Chance = new Random();
    int x = 2, y = 2, coinX, coinY;

    float[] State() { return new[] { x / 2f - 1, y / 2f - 1, (coinX - x) / 4f, (coinY - y) / 4f }; }
    bool Legal(int action) {
        int toX = x + Moves[action][0], toY = y + Moves[action][1];
        return toX >= 0 && toX < Size && toY >= 0 && toY < Size;
    }
    float Step(int action) {
        x += Moves[action][0];
        y += Moves[action][1];
        bool found = x == coinX && y == coinY;
        while (x == coinX && y == coinY) { coinX = Chance.Next(Size); coinY = Chance.Next(Size); }
        return found ? 0.95f : -0.05f;
    }

    // --- Writing: an .npz is a zip archive of .npy members. (All machines that run .NET are little-endian.) ---
    static byte[] Bytes(Array values, int size) {
        var data = new byte[values.Length * size];
        Buffer.BlockCopy(values, 0, data, 0, data.Length);
        return data;
    }
    static void Put(ZipArchive zip, string name, string descr, string shape, byte[] data) {
        string header = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (" + shape + "), }";
        header += new string(' ', 63 - (10 + header.Length) % 64) + "\n"; // magic, version, length: 10 bytes; all: a multiple of 64
        using (var member = zip.CreateEntry(name + ".npy").Open()) {
            member.Write(new byte[] { 0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, (byte)header.Length, (byte)(header.Length >> 8) }, 0, 10);
            member.Write(Encoding.ASCII.GetBytes(header), 0, header.Length);
            member.Write(data, 0, data.Length);
        }
    }
    static void PutText(ZipArchive zip, string name, string text) { // 4 bytes per letter
        byte[] letters = Encoding.UTF32.GetBytes(text);
        Put(zip, name, "<U" + letters.Length / 4, "", letters);
    }
    static float Play(string buffer) { // one game, delivered as one episode
        var game = new Coins();
        float[] states = new float[Steps * S], rewards = new float[Steps], logProbs = new float[Steps];
        var actions = new int[Steps];
        var masks = new bool[Steps * A];
        for (int t = 0; t < Steps; t++) {
            bool[] mask = Enumerable.Range(0, A).Select(game.Legal).ToArray();
            double[] chances = Probabilities(game.State(), mask);
            mask.CopyTo(masks, t * A);
            game.State().CopyTo(states, t * S);
            actions[t] = Draw(chances);
            logProbs[t] = (float)Math.Log(chances[actions[t]]);
            rewards[t] = game.Step(actions[t]);
        }
        string id = "coins_cs_" + Guid.NewGuid().ToString("N"), part = Path.Combine(buffer, "." + id + ".part");
        string meta = "{\"game\": \"Coins\", \"result\": \"" + (rewards.Sum() > 0 ? "Victory" : "Defeat") + "\", \"score\": "
            + rewards.Sum().ToString("F2", CultureInfo.InvariantCulture) + ", \"action_count\": 4, \"action_names\": "
            + "[\"left\", \"right\", \"up\", \"down\"], \"state_names\": [\"x\", \"y\", \"coin_x\", \"coin_y\"]}";
        using (var zip = new ZipArchive(File.Create(part), ZipArchiveMode.Create)) {
            Put(zip, "states", "<f4", Steps + ", " + S, Bytes(states, 4));
            Put(zip, "actions", "<i4", Steps + ",", Bytes(actions, 4));
            Put(zip, "rewards", "<f4", Steps + ",", Bytes(rewards, 4));
            Put(zip, "log_probs", "<f4", Steps + ",", Bytes(logProbs, 4));
            Put(zip, "action_mask", "|b1", Steps + ", " + A, Bytes(masks, 1));
            Put(zip, "policy_version", "<i4", "", BitConverter.GetBytes(version));
            Put(zip, "terminated", "|b1", "", new byte[] { 0 }); // the clock ended the game, not a win or a loss
            Put(zip, "final_state", "<f4", S + ",", Bytes(game.State(), 4));
            PutText(zip, "episode_id", id);
            PutText(zip, "meta", meta);
        }
        File.Move(part, Path.Combine(buffer, id + ".npz")); // atomic: the learner never sees half a file
        return rewards.Sum();
    }

    // --- Playing: the policy is six arrays of the model file ---
    static Dictionary<string, float[]> model;
    static int version;
    static string seen = "";
    static void Read(string file) {
        var arrays = new Dictionary<string, float[]>();
        int number = 0;
        using (var zip = new ZipArchive(new MemoryStream(File.ReadAllBytes(file)))) // read and closed before it is parsed
            foreach (var entry in zip.Entries) {
                string name = entry.FullName.Replace(".npy", "");
                bool layer = name.Length == 2 && "Wb".IndexOf(name[0]) >= 0;
                if (!layer && name != "version") continue;
                var copy = new MemoryStream();
                using (var member = entry.Open()) member.CopyTo(copy);
                byte[] data = copy.ToArray();
                int start = data[6] == 1 ? 10 + BitConverter.ToUInt16(data, 8) : 12 + BitConverter.ToInt32(data, 8);
                string header = Encoding.ASCII.GetString(data, 10, start - 10);
                if (!layer) { number = (int)BitConverter.ToInt64(data, start); continue; }
                if (!header.Contains("'<f4'") || !header.Contains("'fortran_order': False"))
                    throw new IOException(name + ": not float32 in C order");
                arrays[name] = new float[(data.Length - start) / 4];
                Buffer.BlockCopy(data, start, arrays[name], 0, data.Length - start);
            }
        model = arrays;
        version = number;
    }
    static void Refresh(string file) { // between games: read the model again if the learner has replaced it
        try {
            var info = new FileInfo(file);
            if (!info.Exists) return; // before the first batch
            string found = info.LastWriteTimeUtc.Ticks + " " + info.Length;
            if (found != seen) { Read(file); seen = found; }
        } catch (IOException error) { Console.Error.WriteLine("continuing with model " + version + ": " + error.Message); }
    }
    static float[] Layer(float[] input, int number) {
        float[] weights = model["W" + number], output = (float[])model["b" + number].Clone();
        for (int i = 0; i < input.Length; i++)
            for (int o = 0; o < output.Length; o++) output[o] += input[i] * weights[i * output.Length + o];
        return number < 3 ? output.Select(value => (float)Math.Tanh(value)).ToArray() : output;
    }
    static double[] Probabilities(float[] state, bool[] mask) { // a softmax over the legal actions; no model: all alike
        float[] logits = model == null ? new float[A] : Layer(Layer(Layer(state, 1), 2), 3);
        double top = logits.Where((logit, action) => mask[action]).Max();
        double[] powers = logits.Select((logit, action) => mask[action] ? Math.Exp(logit - top) : 0).ToArray();
        return powers.Select(power => power / powers.Sum()).ToArray();
    }
    static int Draw(double[] chances) {
        double left = Chance.NextDouble();
        int chosen = -1;
        for (int action = 0; action < A && left >= 0; action++) if (chances[action] > 0) left -= chances[chosen = action];
        return chosen;
    }
    public static int Main(string[] arguments) {
        if (arguments.Length > 1 && arguments[0] == "--probabilities") {
            Read(arguments[1]);
            for (string line; (line = Console.ReadLine()) != null; ) {
                float[] numbers = line.Split(' ').Select(word => float.Parse(word, CultureInfo.InvariantCulture)).ToArray();
                double[] chances = Probabilities(numbers.Take(S).ToArray(), numbers.Skip(S).Select(number => number == 1).ToArray());
                Console.WriteLine(string.Join(" ", chances.Select(chance => chance.ToString("R", CultureInfo.InvariantCulture))));
            }
            return 0;
        }
        if (arguments.Length == 0) { Console.Error.WriteLine("usage: Coins.exe ROOT [GAMES]"); return 2; }
        string buffer = Directory.CreateDirectory(Path.Combine(arguments[0], "data", "buffer")).FullName;
        float sum = 0;
        for (int number = 1; number <= (arguments.Length > 1 ? int.Parse(arguments[1]) : 300); number++) {
            Refresh(Path.Combine(arguments[0], "models", "rl_agent_model.npz"));
            sum += Play(buffer);
            // This game is far faster than a learner, and old games teach little: wait for it, at most 5 s.
            for (int tries = 0; tries < 50 && Directory.GetFiles(buffer).Length > 60; tries++) Thread.Sleep(100);
            if (number % 50 > 0) continue;
            Console.WriteLine(string.Format(CultureInfo.InvariantCulture, "games {0}  mean return {1:F2}  model {2}", number, sum / 50, version));
            sum = 0;
        }
        return 0;
    }
}
