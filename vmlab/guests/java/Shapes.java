/** Virtual calls: an abstract class, overriding, calls of the method above. */
public class Shapes {
    abstract static class Shape {
        final String name;
        static int made;

        Shape(String name) {
            this.name = name;
            made++;
        }

        abstract int area();

        int weight() {
            return 2 * area();
        }

        public String toString() {
            return name + "(" + area() + ", " + weight() + ")";
        }
    }

    static class Rectangle extends Shape {
        final int width;
        final int height;

        Rectangle(int width, int height) {
            this("rectangle", width, height);
        }

        Rectangle(String name, int width, int height) {
            super(name);
            this.width = width;
            this.height = height;
        }

        int area() {
            return width * height;
        }
    }

    static class Square extends Rectangle {
        Square(int side) {
            super("square", side, side);
        }

        int weight() {
            return super.weight() + 1;
        }
    }

    static class Triangle extends Shape {
        private final int base;
        private final int height;

        Triangle(int base, int height) {
            super("triangle");
            this.base = base;
            this.height = height;
        }

        int area() {
            return base * height / 2;
        }

        public String toString() {
            return "a " + super.toString();
        }
    }

    public static void main(String[] args) {
        Shape[] shapes = new Shape[60];
        for (int i = 0; i < shapes.length; i++) {
            switch (i % 3) {
                case 0:
                    shapes[i] = new Rectangle(i + 1, 2);
                    break;
                case 1:
                    shapes[i] = new Square(i);
                    break;
                default:
                    shapes[i] = new Triangle(i, 3);
            }
        }
        int areas = 0;
        int weights = 0;
        int squares = 0;
        for (Shape shape : shapes) {
            areas += shape.area();
            weights += shape.weight();
            if (shape instanceof Square) {
                squares++;
            } else if (shape instanceof Rectangle) {
                areas += ((Rectangle) shape).width;
            }
        }
        System.out.println(areas + " " + weights + " " + squares + " " + Shape.made);
        System.out.println(shapes[3] + " " + shapes[4] + " " + shapes[5]);
        Object object = shapes[4];
        System.out.println(object instanceof Shape && !(object instanceof Triangle));
        System.out.println(object.getClass().getName());
    }
}
