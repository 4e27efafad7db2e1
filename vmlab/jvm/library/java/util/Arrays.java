package java.util;

public class Arrays {
    private Arrays() {
    }

    public static void fill(int[] array, int value) {
        for (int i = 0; i < array.length; i++) {
            array[i] = value;
        }
    }

    public static void fill(char[] array, char value) {
        for (int i = 0; i < array.length; i++) {
            array[i] = value;
        }
    }

    public static void fill(boolean[] array, boolean value) {
        for (int i = 0; i < array.length; i++) {
            array[i] = value;
        }
    }

    public static int[] copyOf(int[] array, int length) {
        int[] copy = new int[length];
        System.arraycopy(array, 0, copy, 0, Math.min(length, array.length));
        return copy;
    }

    /** Heapsort: the order of equal ints cannot be told. */
    public static void sort(int[] array) {
        for (int root = array.length / 2 - 1; root >= 0; root--) {
            sink(array, root, array.length);
        }
        for (int end = array.length - 1; end > 0; end--) {
            int largest = array[0];
            array[0] = array[end];
            array[end] = largest;
            sink(array, 0, end);
        }
    }

    private static void sink(int[] array, int root, int end) {
        int value = array[root];
        int child;
        while ((child = 2 * root + 1) < end) {
            if (child + 1 < end && array[child + 1] > array[child]) {
                child++;
            }
            if (array[child] <= value) {
                break;
            }
            array[root] = array[child];
            root = child;
        }
        array[root] = value;
    }

    public static boolean equals(int[] left, int[] right) {
        if (left == null || right == null || left.length != right.length) {
            return left == right;
        }
        for (int i = 0; i < left.length; i++) {
            if (left[i] != right[i]) {
                return false;
            }
        }
        return true;
    }

    public static int hashCode(int[] array) {
        if (array == null) {
            return 0;
        }
        int found = 1;
        for (int i = 0; i < array.length; i++) {
            found = 31 * found + array[i];
        }
        return found;
    }

    public static String toString(int[] array) {
        if (array == null) {
            return "null";
        }
        StringBuilder text = new StringBuilder("[");
        for (int i = 0; i < array.length; i++) {
            if (i > 0) {
                text.append(", ");
            }
            text.append(array[i]);
        }
        return text.append(']').toString();
    }
}
