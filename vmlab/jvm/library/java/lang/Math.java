package java.lang;

public final class Math {
    private Math() {
    }

    public static int min(int left, int right) {
        return left < right ? left : right;
    }

    public static int max(int left, int right) {
        return left > right ? left : right;
    }

    public static int abs(int value) {
        return value < 0 ? -value : value;
    }

    public static long min(long left, long right) {
        return left < right ? left : right;
    }

    public static long max(long left, long right) {
        return left > right ? left : right;
    }

    public static long abs(long value) {
        return value < 0 ? -value : value;
    }

    public static int floorDiv(int left, int right) {
        int found = left / right;
        return (left ^ right) < 0 && found * right != left ? found - 1 : found;
    }

    public static int floorMod(int left, int right) {
        return left - floorDiv(left, right) * right;
    }

    public static int addExact(int left, int right) {
        int found = left + right;
        if (((left ^ found) & (right ^ found)) < 0) {
            throw new ArithmeticException("integer overflow");
        }
        return found;
    }

    public static int subtractExact(int left, int right) {
        int found = left - right;
        if (((left ^ right) & (left ^ found)) < 0) {
            throw new ArithmeticException("integer overflow");
        }
        return found;
    }

    public static int multiplyExact(int left, int right) {
        long found = (long) left * right;
        if ((int) found != found) {
            throw new ArithmeticException("integer overflow");
        }
        return (int) found;
    }
}
