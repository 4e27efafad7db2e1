/** Sorts by insertion, by merging and by partition, and compares the results. */
public class Sorting {
    static int seed = 12345;

    static int random() {
        seed = seed * 1103515245 + 12345;
        return seed >>> 16 & 0x7fff;
    }

    static void insertion(int[] a) {
        for (int i = 1; i < a.length; i++) {
            int value = a[i];
            int j = i;
            while (j > 0 && a[j - 1] > value) {
                a[j] = a[j - 1];
                j--;
            }
            a[j] = value;
        }
    }

    static void quick(int[] a, int low, int high) {
        if (low >= high) {
            return;
        }
        int pivot = a[(low + high) / 2];
        int i = low;
        int j = high;
        while (i <= j) {
            while (a[i] < pivot) {
                i++;
            }
            while (a[j] > pivot) {
                j--;
            }
            if (i <= j) {
                int swap = a[i];
                a[i++] = a[j];
                a[j--] = swap;
            }
        }
        quick(a, low, j);
        quick(a, i, high);
    }

    static int[] merge(int[] a) {
        if (a.length < 2) {
            return a;
        }
        int[] left = new int[a.length / 2];
        int[] right = new int[a.length - left.length];
        System.arraycopy(a, 0, left, 0, left.length);
        System.arraycopy(a, left.length, right, 0, right.length);
        left = merge(left);
        right = merge(right);
        int[] merged = new int[a.length];
        int i = 0;
        int j = 0;
        for (int k = 0; k < merged.length; k++) {
            merged[k] = j == right.length || i < left.length && left[i] <= right[j] ? left[i++] : right[j++];
        }
        return merged;
    }

    static int hash(int[] a) {
        int h = 1;
        for (int value : a) {
            h = 31 * h + value;
        }
        return h;
    }

    public static void main(String[] args) {
        int[] a = new int[300];
        for (int i = 0; i < a.length; i++) {
            a[i] = random();
        }
        int[] b = a.clone();
        int[] c = merge(a);
        System.out.println("before: " + hash(a));
        insertion(a);
        quick(b, 0, b.length - 1);
        System.out.println("insertion: " + hash(a) + " quick: " + hash(b) + " merge: " + hash(c));
        System.out.println("smallest " + a[0] + ", median " + a[a.length / 2] + ", largest " + a[a.length - 1]);
        for (int i = 1; i < a.length; i++) {
            if (a[i - 1] > a[i]) {
                System.out.println("out of order at " + i);
            }
        }
    }
}
