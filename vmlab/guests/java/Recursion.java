/** Fibonacci's numbers, Ackermann's function, the towers of Hanoi, and permutations. */
public class Recursion {
    static int moves;

    static int fibonacci(int n) {
        return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
    }

    static int ackermann(int m, int n) {
        if (m == 0) {
            return n + 1;
        }
        return n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
    }

    static void hanoi(int disks, int from, int to) {
        if (disks == 0) {
            return;
        }
        hanoi(disks - 1, from, 6 - from - to);
        moves++;
        hanoi(disks - 1, 6 - from - to, to);
    }

    static int permute(char[] letters, int fixed) {
        if (fixed == letters.length) {
            return new String(letters).hashCode();
        }
        int sum = 0;
        for (int i = fixed; i < letters.length; i++) {
            char c = letters[fixed];
            letters[fixed] = letters[i];
            letters[i] = c;
            sum = sum * 17 + permute(letters, fixed + 1);
            letters[i] = letters[fixed];
            letters[fixed] = c;
        }
        return sum;
    }

    static boolean even(int n) {
        return n == 0 || odd(n - 1);
    }

    static boolean odd(int n) {
        return n != 0 && even(n - 1);
    }

    public static void main(String[] args) {
        System.out.println("fibonacci(17) = " + fibonacci(17));
        System.out.println("ackermann(2, 6) = " + ackermann(2, 6));
        hanoi(9, 1, 3);
        System.out.println("hanoi(9): " + moves + " moves");
        System.out.println("permutations: " + permute("abcde".toCharArray(), 0));
        System.out.println("even(777) = " + even(777));
    }
}
