/** Interfaces: calls by them, default methods, Comparable, an inner class. */
public class Interfaces {
    interface Operation {
        int apply(int value);

        default Operation twice() {
            final Operation self = this;
            return new Operation() {
                public int apply(int value) {
                    return self.apply(self.apply(value));
                }
            };
        }

        static Operation identity() {
            return new Add(0);
        }
    }

    interface Named {
        int LIMIT = 100;

        default String name() {
            return "unnamed";
        }
    }

    static class Add implements Operation, Named {
        private final int amount;

        Add(int amount) {
            this.amount = amount;
        }

        public int apply(int value) {
            return value + amount;
        }
    }

    static class Multiply implements Operation, Named {
        private final int factor;

        Multiply(int factor) {
            this.factor = factor;
        }

        public int apply(int value) {
            return value * factor % 1000003;
        }

        public String name() {
            return "times " + factor;
        }
    }

    static class Version implements Comparable<Version> {
        final int major;
        final int minor;

        Version(int major, int minor) {
            this.major = major;
            this.minor = minor;
        }

        public int compareTo(Version other) {
            return major != other.major ? major - other.major : minor - other.minor;
        }

        public String toString() {
            return major + "." + minor;
        }
    }

    static <T extends Comparable<T>> T largest(T[] items) {
        T found = items[0];
        for (T item : items) {
            if (item.compareTo(found) > 0) {
                found = item;
            }
        }
        return found;
    }

    class Counter implements Runnable {
        public void run() {
            count++;
        }
    }

    private int count;

    public static void main(String[] args) {
        Operation[] operations = {new Add(5), new Multiply(3), new Add(-2).twice(), new Multiply(7).twice(), Operation.identity()};
        int value = 1;
        for (int round = 0; round < 60; round++) {
            value = operations[round % operations.length].apply(value);
        }
        System.out.println(value);
        for (Operation each : operations) {
            System.out.println(each instanceof Named ? ((Named) each).name() : "no name");
        }
        System.out.println(largest(new Version[] {new Version(1, 9), new Version(2, 1), new Version(2, 0)}));
        System.out.println(largest(new Integer[] {3, 141, 59}) + " " + largest(new String[] {"esx", "xen", "kvm"}));
        Interfaces outer = new Interfaces();
        Runnable counter = outer.new Counter();
        for (int i = 0; i < Named.LIMIT; i++) {
            counter.run();
        }
        System.out.println(outer.count);
    }
}
