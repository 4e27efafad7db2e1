/** Numbers of 64 bits: products, remainders, shifts, comparisons, a generator. */
public class Longs {
    static long state = 88172645463325252L;
    static final long BIG = 0x123456789abcdefL;
    long field = -5;

    static long next() {
        state ^= state << 13;
        state ^= state >>> 7;
        state ^= state << 17;
        return state;
    }

    static long power(long base, int exponent, long modulus) {
        long result = 1;
        base %= modulus;
        while (exponent > 0) {
            if ((exponent & 1) != 0) {
                result = result * base % modulus;
            }
            base = base * base % modulus;
            exponent >>= 1;
        }
        return result;
    }

    static long gcd(long a, long b) {
        return b == 0 ? a : gcd(b, a % b);
    }

    public static void main(String[] args) {
        long factorial = 1;
        for (int i = 1; i <= 22; i++) {
            factorial *= i;
            if (i > 18) {
                System.out.println(i + "! = " + factorial);
            }
        }
        for (int i = 0; i < 4; i++) {
            long value = next();
            System.out.println(value + " " + Long.toHexString(value) + " " + (int) value + " " + (value >> 40) + " " + (value >>> 60));
        }
        System.out.println(power(3, 1000, 1000000007L) + " " + gcd(1071L << 20, 462L << 20));
        System.out.println(Long.MIN_VALUE / -1 + " " + Long.MIN_VALUE % -1 + " " + -7L / 2 + " " + -7L % 2 + " " + (1L << 65));
        System.out.println((BIG > 5 ? "more" : "less") + " " + (BIG & 0xff) + " " + (BIG | 1) + " " + (BIG ^ -1L) + " " + -BIG);
        Longs object = new Longs();
        object.field += 10;
        object.field <<= 33;
        long[] array = new long[5];
        for (int i = 0; i < array.length; i++) {
            array[i] = object.field * i - i;
        }
        long sum = 0;
        for (long each : array) {
            sum += each;
        }
        System.out.println(sum + " " + object.field++ + " " + --object.field + " " + Long.compare(sum, 3));
        try {
            System.out.println(sum / (array[0] - array[0]));
        } catch (ArithmeticException e) {
            System.out.println(e.getMessage());
        }
        System.out.println((int) 0x1ffffffffL + " " + (byte) 0x1ffL + " " + (long) (char) 65535 + " " + (short) -40000L);
    }
}
