// Coins, a small game that learns beside Background Training. Java 11 or newer, no packages.
//   java Coins.java ROOT [GAMES]                     play, and write an episode per game into ROOT/data/buffer
//   java Coins.java --probabilities MODEL < LINES    a line: 4 numbers of a state and 4 of a mask; prints 4 probabilities
import java.io.*;
import java.nio.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.*;
import java.util.zip.*;

public class Coins {
    // --- The game: 40 steps on 5 x 5 fields. Each coin earns 1, each step costs 0.05; moves off the board are illegal. ---
    static final int STEPS = 40, SIZE = 5, S = 4, A = 4;
    static final int[][] MOVES = {{-1, 0}, {1, 0}, {0, -1}, {0, 1}};
    static final Random RANDOM = new Random();
    int x = 2, y = 2, coinX, coinY;

    float[] state() { return new float[] {x / 2f - 1, y / 2f - 1, (coinX - x) / 4f, (coinY - y) / 4f}; }
    boolean legal(int action) {
        int toX = x + MOVES[action][0], toY = y + MOVES[action][1];
        return toX >= 0 && toX < SIZE && toY >= 0 && toY < SIZE;
    }
    float step(int action) {
        x += MOVES[action][0];
        y += MOVES[action][1];
        boolean found = x == coinX && y == coinY;
        while (x == coinX && y == coinY) { coinX = RANDOM.nextInt(SIZE); coinY = RANDOM.nextInt(SIZE); }
        return found ? 0.95f : -0.05f;
    }

    // --- Writing: an .npz is a zip archive of .npy members ---
    static ByteBuffer little(int bytes) { return ByteBuffer.allocate(bytes).order(ByteOrder.LITTLE_ENDIAN); }
    static byte[] floats(float... values) {
        ByteBuffer data = little(4 * values.length);
        for (float value : values) data.putFloat(value);
        return data.array();
    }
    static byte[] integers(int... values) {
        ByteBuffer data = little(4 * values.length);
        for (int value : values) data.putInt(value);
        return data.array();
    }
    static void put(ZipOutputStream zip, String name, String descr, String shape, byte[] data) throws IOException {
        String header = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (" + shape + "), }";
        header += " ".repeat(63 - (10 + header.length()) % 64) + "\n"; // magic, version, length: 10 bytes; all: a multiple of 64
        zip.putNextEntry(new ZipEntry(name + ".npy"));
        zip.write(new byte[] {(byte) 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (byte) header.length(), (byte) (header.length() >> 8)});
        zip.write(header.getBytes(StandardCharsets.US_ASCII));
        zip.write(data);
        zip.closeEntry();
    }
    static void putText(ZipOutputStream zip, String name, String text) throws IOException { // 4 bytes per letter
        int[] letters = text.codePoints().toArray();
        put(zip, name, "<U" + letters.length, "", integers(letters));
    }
    static float play(Path buffer) throws Exception { // one game, delivered as one episode
        Coins game = new Coins();
        float[] states = new float[STEPS * S], rewards = new float[STEPS], logProbs = new float[STEPS];
        int[] actions = new int[STEPS];
        byte[] masks = new byte[STEPS * A];
        float score = 0;
        for (int t = 0; t < STEPS; t++) {
            boolean[] mask = new boolean[A];
            for (int action = 0; action < A; action++) masks[t * A + action] = (byte) ((mask[action] = game.legal(action)) ? 1 : 0);
            double[] chances = probabilities(game.state(), mask);
            System.arraycopy(game.state(), 0, states, t * S, S);
            actions[t] = draw(chances);
            logProbs[t] = (float) Math.log(chances[actions[t]]);
            score += rewards[t] = game.step(actions[t]);
        }
        String id = "coins_java_" + UUID.randomUUID(), T = "" + STEPS;
        String meta = String.format(Locale.ROOT, "{\"game\": \"Coins\", \"result\": \"%s\", \"score\": %.2f, \"action_count\": 4, "
            + "\"action_names\": [\"left\", \"right\", \"up\", \"down\"], \"state_names\": [\"x\", \"y\", \"coin_x\", \"coin_y\"]}",
            score > 0 ? "Victory" : "Defeat", score);
        Path part = buffer.resolve("." + id + ".part");
        try (ZipOutputStream zip = new ZipOutputStream(new BufferedOutputStream(Files.newOutputStream(part)))) {
            put(zip, "states", "<f4", T + ", " + S, floats(states));
            put(zip, "actions", "<i4", T + ",", integers(actions));
            put(zip, "rewards", "<f4", T + ",", floats(rewards));
            put(zip, "log_probs", "<f4", T + ",", floats(logProbs));
            put(zip, "action_mask", "|b1", T + ", " + A, masks);
            put(zip, "policy_version", "<i4", "", integers(version));
            put(zip, "terminated", "|b1", "", new byte[] {0}); // the clock ended the game, not a win or a loss
            put(zip, "final_state", "<f4", S + ",", floats(game.state()));
            putText(zip, "episode_id", id);
            putText(zip, "meta", meta);
        }
        Files.move(part, buffer.resolve(id + ".npz"), StandardCopyOption.ATOMIC_MOVE); // the learner never sees half a file
        return score;
    }

    // --- Playing: the policy is six arrays of the model file ---
    static Map<String, float[]> model;
    static int version;
    static String seen = "";
    static void read(Path file) throws IOException {
        Map<String, float[]> arrays = new HashMap<>();
        int number = 0;
        try (ZipInputStream zip = new ZipInputStream(new ByteArrayInputStream(Files.readAllBytes(file)))) {
            for (ZipEntry entry; (entry = zip.getNextEntry()) != null; ) {
                ByteBuffer data = ByteBuffer.wrap(zip.readAllBytes()).order(ByteOrder.LITTLE_ENDIAN);
                int start = data.get(6) == 1 ? 10 + (data.getShort(8) & 0xffff) : 12 + data.getInt(8);
                String name = entry.getName().replace(".npy", ""), header = new String(data.array(), 0, start, StandardCharsets.ISO_8859_1);
                if (name.equals("version")) number = (int) data.getLong(start);
                if (!name.matches("[Wb][123]")) continue;
                if (!header.contains("'<f4'") || !header.contains("'fortran_order': False")) throw new IOException(name + ": not float32 in C order");
                arrays.put(name, new float[(data.limit() - start) / 4]);
                data.position(start).slice().order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(arrays.get(name));
            }
        }
        model = arrays;
        version = number;
    }
    static void refresh(Path file) throws IOException { // between games: read the model again if the learner has replaced it
        try {
            String found = Files.readAttributes(file, "lastModifiedTime,size,fileKey").toString();
            if (!found.equals(seen)) { read(file); seen = found; }
        } catch (NoSuchFileException none) { // before the first batch
        } catch (IOException error) { System.err.println("continuing with model " + version + ": " + error.getMessage()); }
    }
    static float[] layer(float[] input, int number) {
        float[] weights = model.get("W" + number), output = model.get("b" + number).clone();
        for (int in = 0; in < input.length; in++)
            for (int out = 0; out < output.length; out++) output[out] += input[in] * weights[in * output.length + out];
        for (int out = 0; number < 3 && out < output.length; out++) output[out] = (float) Math.tanh(output[out]);
        return output;
    }
    static double[] probabilities(float[] state, boolean[] mask) { // a softmax over the legal actions; no model: all alike
        float[] logits = model == null ? new float[A] : layer(layer(layer(state, 1), 2), 3);
        double top = Double.NEGATIVE_INFINITY, sum = 0;
        for (int action = 0; action < A; action++) if (mask[action]) top = Math.max(top, logits[action]);
        double[] chances = new double[A];
        for (int action = 0; action < A; action++) sum += chances[action] = mask[action] ? Math.exp(logits[action] - top) : 0;
        for (int action = 0; action < A; action++) chances[action] /= sum;
        return chances;
    }
    static int draw(double[] chances) {
        double left = RANDOM.nextDouble();
        int chosen = -1;
        for (int action = 0; action < A && left >= 0; action++) if (chances[action] > 0) left -= chances[chosen = action];
        return chosen;
    }
    public static void main(String[] arguments) throws Exception {
        if (arguments.length > 1 && arguments[0].equals("--probabilities")) {
            read(Path.of(arguments[1]));
            for (Scanner lines = new Scanner(System.in); lines.hasNextLine(); ) {
                String[] words = lines.nextLine().split(" ");
                float[] state = new float[S];
                boolean[] mask = new boolean[A];
                for (int i = 0; i < S; i++) state[i] = Float.parseFloat(words[i]);
                for (int i = 0; i < A; i++) mask[i] = words[S + i].equals("1");
                for (double chance : probabilities(state, mask)) System.out.print(chance + " ");
                System.out.println();
            }
            return;
        }
        if (arguments.length == 0) { System.err.println("usage: java Coins.java ROOT [GAMES]"); System.exit(2); }
        Path buffer = Files.createDirectories(Path.of(arguments[0], "data", "buffer"));
        float sum = 0;
        for (int number = 1; number <= (arguments.length > 1 ? Integer.parseInt(arguments[1]) : 300); number++) {
            refresh(Path.of(arguments[0], "models", "rl_agent_model.npz"));
            sum += play(buffer);
            // This game is far faster than a learner, and old games teach little: wait for it, at most 5 s.
            for (int tries = 0; tries < 50 && buffer.toFile().list().length > 60; tries++) Thread.sleep(100);
            if (number % 50 > 0) continue;
            System.out.printf(Locale.ROOT, "games %d  mean return %.2f  model %d%n", number, sum / 50, version);
            sum = 0;
        }
    }
}
