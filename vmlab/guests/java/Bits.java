/** Bits: shifts, masks, counting, narrow types, overflow. */
public class Bits {
    static int count(int word) {
        int bits = 0;
        for (; word != 0; word &= word - 1) {
            bits++;
        }
        return bits;
    }

    static int reverse(int word) {
        word = (word & 0x55555555) << 1 | word >>> 1 & 0x55555555;
        word = (word & 0x33333333) << 2 | word >>> 2 & 0x33333333;
        word = (word & 0x0f0f0f0f) << 4 | word >>> 4 & 0x0f0f0f0f;
        return word << 24 | (word & 0xff00) << 8 | word >>> 8 & 0xff00 | word >>> 24;
    }

    static int crc(byte[] data) {
        int crc = ~0;
        for (byte b : data) {
            crc ^= b & 0xff;
            for (int i = 0; i < 8; i++) {
                crc = (crc & 1) != 0 ? crc >>> 1 ^ 0xedb88320 : crc >>> 1;
            }
        }
        return ~crc;
    }

    public static void main(String[] args) {
        int[] words = {0, 1, -1, 0x80000000, 0x7fffffff, 0x12345678, 0xdeadbeef};
        for (int word : words) {
            System.out.println(Integer.toHexString(word) + " " + count(word) + " " + Integer.toHexString(reverse(word)) + " "
                    + Integer.bitCount(word) + " " + Integer.numberOfLeadingZeros(word) + " " + (word >> 4) + " " + (word >>> 28)
                    + " " + (word << 33) + " " + (word >> -1) + " " + -word + " " + ~word);
        }
        System.out.println((byte) 200 + " " + (short) 70000 + " " + (int) (char) -1 + " " + (byte) -129 + " " + (char) 97);
        System.out.println(Integer.MAX_VALUE + 1 + " " + Integer.MIN_VALUE / -1 + " " + Integer.MIN_VALUE % -1 + " " + -7 / 2 + " " + -7 % 2);
        System.out.println(0x10001 * 0x10001 + " " + 123456789 * 987654321);
        byte[] data = new byte[256];
        for (int i = 0; i < data.length; i++) {
            data[i] = (byte) (i * 7);
        }
        System.out.println(Integer.toHexString(crc(data)));
        short small = 32767;
        small++;
        char letter = 'a';
        letter += 2;
        byte tiny = 127;
        tiny += 3;
        System.out.println(small + " " + letter + " " + tiny);
        boolean[] flags = new boolean[8];
        for (int i = 0; i < flags.length; i++) {
            flags[i] = (0xa5 >> i & 1) == 1 ^ i > 5;
        }
        int packed = 0;
        for (boolean flag : flags) {
            packed = packed << 1 | (flag ? 1 : 0);
        }
        System.out.println(packed);
        short[] samples = {-32768, 32767, (short) 0x8001};
        char[] units = {'\uffff', 'A'};
        System.out.println(samples[0] + samples[1] + samples[2] + " " + (units[0] + units[1]));
    }
}
