package java.util;

/** The generator that the standard library specifies; without a seed there is none, since each run is the same. */
public class Random {
    private long seed;

    public Random(long seed) {
        this.seed = (seed ^ 0x5DEECE66DL) & (1L << 48) - 1;
    }

    protected int next(int bits) {
        seed = seed * 0x5DEECE66DL + 0xBL & (1L << 48) - 1;
        return (int) (seed >>> 48 - bits);
    }

    public int nextInt() {
        return next(32);
    }

    public int nextInt(int bound) {
        if (bound <= 0) {
            throw new IllegalArgumentException("bound must be positive");
        }
        int found = next(31);
        int last = bound - 1;
        if ((bound & last) == 0) {
            return (int) ((long) bound * found >> 31);
        }
        for (int drawn = found; drawn - (found = drawn % bound) + last < 0; drawn = next(31)) {
        }
        return found;
    }

    public long nextLong() {
        return ((long) next(32) << 32) + next(32);
    }

    public boolean nextBoolean() {
        return next(1) != 0;
    }
}
