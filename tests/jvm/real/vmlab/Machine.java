package vmlab;

/** What Workload asks of the simulated computer, for the real `java`: the same disk, a timer that ticks at once. */
public final class Machine {
    private static int ticks;

    private Machine() {
    }

    public static int read(int sector, byte[] buffer) {
        for (int n = 0; n < 512; n++) {
            int i = sector * 512 + n;
            buffer[n] = (byte) (i * 7 + (i >> 8) * 13 + 5);
        }
        return 0;
    }

    public static int tick() {
        return ++ticks;
    }

    public static int process() {
        return 1;
    }
}
