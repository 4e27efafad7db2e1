import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.List;
import java.util.Random;

/** Collections of the library: lists with boxed numbers, iteration, a generator with a seed. */
public class Lists {
    static class Range implements Iterable<Integer> {
        final int end;

        Range(int end) {
            this.end = end;
        }

        public Iterator<Integer> iterator() {
            return new Iterator<Integer>() {
                private int next;

                public boolean hasNext() {
                    return next < end;
                }

                public Integer next() {
                    return next++;
                }
            };
        }
    }

    public static void main(String[] args) {
        Random random = new Random(2024);
        List<Integer> numbers = new ArrayList<>();
        for (int i = 0; i < 40; i++) {
            numbers.add(random.nextInt(1000) - 500);
        }
        int sum = 0;
        for (int each : numbers) {
            sum += each;
        }
        System.out.println(sum + " " + numbers.get(7) + " " + numbers.size() + " " + numbers.contains(sum));
        List<String> words = new ArrayList<>();
        for (Integer i : new Range(12)) {
            words.add(i % 2 == 0 ? "even" + i : String.valueOf(i));
        }
        words.remove(0);
        words.set(1, null);
        System.out.println(words + " " + words.indexOf("even4") + " " + words.indexOf(null));
        int[] sorted = new int[numbers.size()];
        for (int i = 0; i < sorted.length; i++) {
            sorted[i] = numbers.get(i);
        }
        Arrays.sort(sorted);
        System.out.println(Arrays.toString(Arrays.copyOf(sorted, 6)) + " " + Arrays.hashCode(sorted));
        Integer small = 127;
        Integer same = 127;
        System.out.println((small == same) + " " + small.equals(same) + " " + new Integer(5).hashCode());
        try {
            words.get(11);
        } catch (IndexOutOfBoundsException e) {
            System.out.println(e.getMessage());
        }
        System.out.println(random.nextLong() + " " + random.nextBoolean() + " " + random.nextInt() + " " + random.nextInt(64));
    }
}
